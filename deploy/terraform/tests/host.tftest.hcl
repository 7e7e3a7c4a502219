# What the host and the bucket are, decided from the plan alone.

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

run "the_host_is_hardened_and_the_bundles_are_private" {
  command = plan

  assert {
    condition     = aws_instance.host.metadata_options[0].http_tokens == "required"
    error_message = "The metadata service answers without a token: a forged request of the API would read the host's credentials."
  }

  assert {
    condition     = aws_instance.host.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "A container on the host could read its credentials."
  }

  assert {
    condition     = aws_instance.host.root_block_device[0].encrypted
    error_message = "The disk is not encrypted."
  }

  assert {
    condition     = aws_instance.host.instance_type == "t3.micro" && aws_instance.host.root_block_device[0].volume_size <= 30
    error_message = "By default the host is within the free tier."
  }

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.bundles.block_public_acls,
      aws_s3_bucket_public_access_block.bundles.block_public_policy,
      aws_s3_bucket_public_access_block.bundles.ignore_public_acls,
      aws_s3_bucket_public_access_block.bundles.restrict_public_buckets,
    ])
    error_message = "The bundles can be made public."
  }

  assert {
    condition     = aws_s3_bucket_versioning.bundles.versioning_configuration[0].status == "Enabled"
    error_message = "A bundle that is written over is lost."
  }
}

run "an_account_with_an_identity_provider_keeps_it" {
  command = plan

  variables {
    github_identity_provider = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"
  }

  assert {
    condition     = length(aws_iam_openid_connect_provider.github) == 0
    error_message = "A second provider of the same name is refused by AWS."
  }
}
