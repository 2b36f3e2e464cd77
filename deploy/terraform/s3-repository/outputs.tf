output "url" {
  description = "For `walkeep init --repo` or `--mirror`."
  value       = var.prefix == "" ? "s3://${aws_s3_bucket.repository.id}" : "s3://${aws_s3_bucket.repository.id}/${var.prefix}"
}

output "bucket_arn" {
  description = "The bucket."
  value       = aws_s3_bucket.repository.arn
}

output "policies" {
  description = "The policies of writer, pruner and restorer, as JSON."
  value = {
    writer   = module.policies.writer
    pruner   = module.policies.pruner
    restorer = module.policies.restorer
  }
}

output "policy_arns" {
  description = "The policies that were created in IAM, by role."
  value       = { for role, policy in aws_iam_policy.repository : role => policy.arn }
}
