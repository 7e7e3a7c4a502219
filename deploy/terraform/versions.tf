terraform {
  # 1.10 is the first whose S3 state locks with a file of its own, without a table beside it.
  required_version = ">= 1.10"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }

  # The bucket and its region come with `terraform init -backend-config`; state-bucket makes it.
  backend "s3" {
    key          = "gristmill.tfstate"
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = { project = var.name }
  }
}
