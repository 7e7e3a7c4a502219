output "address" {
  description = "The host's public address: the one that the API's name is to point to."
  value       = aws_eip.host.public_ip
}

output "instance" {
  description = "The host as Session Manager knows it, and as `deploy/release` is told it."
  value       = aws_instance.host.id
}

output "bundles" {
  description = "Where bundles are published to and taken from."
  value       = "s3://${aws_s3_bucket.bundles.bucket}"
}

output "publish_policy" {
  description = "The policy to attach to the identity that trains and publishes bundles."
  value       = aws_iam_policy.publish.arn
}

output "release_role" {
  description = "The role that the repository's workflow releases with."
  value       = aws_iam_role.release.arn
}
