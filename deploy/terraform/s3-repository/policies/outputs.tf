output "writer" {
  description = "For the database's host."
  value       = local.policy["policy-writer"]
}

output "pruner" {
  description = "For what deletes old backups, best on another host."
  value       = local.policy["policy-pruner"]
}

output "restorer" {
  description = "For what only reads."
  value       = local.policy["policy-restorer"]
}

output "append_only" {
  description = "A bucket policy that refuses whoever would replace an object."
  value       = local.policy["bucket-policy-append-only"]
}
