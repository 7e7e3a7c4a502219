data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

locals {
  partition = data.aws_partition.current.partition

  # cloud-init lays the files of deploy/host out as they are there, and runs two of them once.
  prepared = "/root/gristmill-host"
  user_data = base64gzip(join("\n", ["#cloud-config", jsonencode({
    write_files = concat(
      [{ path = "${local.prepared}/session-manager", content = file("${path.module}/session-manager"), permissions = "0700" }],
      [for name in fileset("${path.module}/../host", "*") : {
        path        = "${local.prepared}/${name}"
        content     = file("${path.module}/../host/${name}")
        permissions = "0700"
      }],
    )
    runcmd = [
      ["${local.prepared}/session-manager"],
      ["${local.prepared}/prepare-host", var.domain, trimspace(var.ssh_public_key)],
    ]
  })]))
}

# Debian's own images: https://wiki.debian.org/Cloud/AmazonEC2Image
data "aws_ami" "debian" {
  most_recent = true
  owners      = ["136693071363"]

  filter {
    name   = "name"
    values = ["debian-12-amd64-*"]
  }

  filter {
    name   = "architecture"
    values = ["x86_64"]
  }
}

data "aws_iam_policy_document" "host_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

# Less than Amazon's AmazonSSMManagedInstanceCore, which also reads every parameter of the account:
# the host can be reached through Session Manager, and can do nothing else.
data "aws_iam_policy_document" "host" {
  statement {
    actions = [
      "ssm:UpdateInstanceInformation",
      "ssmmessages:CreateControlChannel",
      "ssmmessages:CreateDataChannel",
      "ssmmessages:OpenControlChannel",
      "ssmmessages:OpenDataChannel",
    ]
    resources = ["*"] # these actions know no resources
  }
}

resource "aws_iam_role" "host" {
  name               = "${var.name}-host"
  description        = "Lets Session Manager reach the host"
  assume_role_policy = data.aws_iam_policy_document.host_trust.json
}

resource "aws_iam_role_policy" "host" {
  name   = "session-manager"
  role   = aws_iam_role.host.id
  policy = data.aws_iam_policy_document.host.json
}

resource "aws_iam_instance_profile" "host" {
  name = "${var.name}-host"
  role = aws_iam_role.host.name
}

resource "aws_instance" "host" {
  ami                    = data.aws_ami.debian.id
  instance_type          = var.instance_type
  subnet_id              = aws_subnet.public.id
  vpc_security_group_ids = [aws_security_group.host.id]
  iam_instance_profile   = aws_iam_instance_profile.host.name
  user_data_base64       = local.user_data

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = var.disk_gib
    encrypted   = true
  }

  tags = { Name = var.name }

  lifecycle {
    precondition {
      condition     = length(local.user_data) <= 16384 * 4 / 3
      error_message = "What cloud-init is told has more than the 16 KiB that EC2 takes: shorten deploy/host."
    }

    # A newer image, or a newer script, does not replace or stop a host that answers: its packages
    # and prepare-host bring it up to date where it is.
    ignore_changes = [ami, user_data_base64]
  }
}

resource "aws_eip" "host" {
  domain = "vpc"

  tags = { Name = var.name }

  depends_on = [aws_internet_gateway.this]
}

resource "aws_eip_association" "host" {
  instance_id   = aws_instance.host.id
  allocation_id = aws_eip.host.id
}
