# GitHub's own tokens open the role: no key of AWS lies in the repository.
resource "aws_iam_openid_connect_provider" "github" {
  count = var.github_identity_provider == null ? 1 : 0

  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}

locals {
  github_identity_provider = coalesce(
    var.github_identity_provider, one(aws_iam_openid_connect_provider.github[*].arn)
  )
}

data "aws_iam_policy_document" "github_trust" {
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [local.github_identity_provider]
    }

    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:aud"
      values   = ["sts.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:sub"
      values   = ["repo:${var.github_repository}:environment:production"]
    }

    # Whoever may write a branch may write its workflows, so that the environment is not enough.
    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:ref"
      values   = ["refs/heads/main"]
    }
  }
}

data "aws_iam_policy_document" "release" {
  statement {
    sid       = "TakeBundles"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.bundles.arn}/*"]
  }

  statement {
    sid       = "FindBundles"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.bundles.arn]
  }

  statement {
    sid     = "ReachSshOfTheHost"
    actions = ["ssm:StartSession"]
    resources = [
      aws_instance.host.arn,
      "arn:${local.partition}:ssm:${var.region}::document/AWS-StartSSHSession",
    ]

    # Without it, StartSession on an instance also opens a root shell by the default document.
    condition {
      test     = "BoolIfExists"
      variable = "ssm:SessionDocumentAccessCheck"
      values   = ["true"]
    }
  }

  statement {
    sid       = "EndOwnSessions"
    actions   = ["ssm:TerminateSession", "ssm:ResumeSession"]
    resources = ["arn:${local.partition}:ssm:*:*:session/$${aws:userid}-*"]
  }
}

resource "aws_iam_role" "release" {
  name                 = "${var.name}-release"
  description          = "What the main branch of ${var.github_repository} releases with"
  assume_role_policy   = data.aws_iam_policy_document.github_trust.json
  max_session_duration = 3600
}

resource "aws_iam_role_policy" "release" {
  name   = "release"
  role   = aws_iam_role.release.id
  policy = data.aws_iam_policy_document.release.json
}
