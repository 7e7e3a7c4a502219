# Who reaches the host, decided from the plan alone: no account is needed.

mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }

  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
}

variables {
  domain            = "api.example.org"
  ssh_public_key    = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMIyeIr5nyyslPoEKYvyFvkOtqeeBKrMSe0uiLXNcQ6W release"
  github_repository = "example/clients"
}

run "ssh_and_database_are_closed_where_nobody_is_named" {
  command = plan

  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.ssh) == 0
    error_message = "Port 22 is open although no range was named."
  }

  assert {
    condition = alltrue([
      for rule in concat(
        values(aws_vpc_security_group_ingress_rule.web), values(aws_vpc_security_group_ingress_rule.ssh)
      ) : contains([80, 443], rule.from_port) && rule.from_port == rule.to_port && rule.ip_protocol == "tcp"
    ])
    error_message = "Something else than 80 and 443 is open to the world."
  }

  assert {
    condition     = length(aws_vpc_security_group_egress_rule.database) == 0
    error_message = "A database is reached although none was named."
  }
}

run "ssh_is_open_to_the_named_range_only" {
  command = plan

  variables {
    ssh_from = ["203.0.113.0/24"]
  }

  assert {
    condition     = [for rule in aws_vpc_security_group_ingress_rule.ssh : rule.cidr_ipv4] == ["203.0.113.0/24"]
    error_message = "ssh is open to another range than the named one."
  }
}

run "the_world_is_not_a_range" {
  command = plan

  variables {
    ssh_from = ["0.0.0.0/0"]
  }

  expect_failures = [var.ssh_from]
}

run "nor_is_half_of_the_world" {
  command = plan

  variables {
    ssh_from = ["203.0.113.7/32", "128.0.0.0/1"]
  }

  expect_failures = [var.ssh_from]
}

run "nor_is_the_world_by_ipv6" {
  command = plan

  variables {
    ssh_from = ["::/0"]
  }

  expect_failures = [var.ssh_from]
}

run "a_private_key_is_refused" {
  command = plan

  variables {
    ssh_public_key = "-----BEGIN OPENSSH PRIVATE KEY-----"
  }

  expect_failures = [var.ssh_public_key]
}

run "a_pattern_of_repositories_is_refused" {
  command = plan

  variables {
    github_repository = "example/*"
  }

  expect_failures = [var.github_repository]
}
