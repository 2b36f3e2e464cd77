# The documents beside this directory's grandparent, for one bucket and prefix. No provider is needed, so that this part is
# evaluated by the checks as it is.

terraform {
  required_version = ">= 1.3"
}

locals {
  path    = var.prefix == "" ? "" : "${var.prefix}/"
  objects = "arn:aws:s3:::${var.bucket}/${local.path}"
  sources = toset(["policy-writer", "policy-pruner", "policy-restorer", "bucket-policy-append-only"])
  document = {
    for name in local.sources : name => jsondecode(replace(replace(
      file("${path.module}/../../../s3-${name}.json"), "BUCKET", var.bucket), "PREFIX/", local.path
    ))
  }

  # At the top of a bucket there is no prefix that listing could be bound to.
  statements = {
    for name, document in local.document : name => [
      for statement in document.Statement : {
        for key, value in statement : key => value if !(var.prefix == "" && statement.Sid == "List" && key == "Condition")
      }
    ]
  }

  # What a repository of the stream deletes besides leases and probes: docs/s3.md, Tails.
  delete_tails = [{
    Sid      = "DropTails"
    Effect   = "Allow"
    Action   = ["s3:DeleteObject"]
    Resource = ["${local.objects}clusters/*/wal/*.tail-*"]
  }]
  lock_objects = [{
    Sid      = "LockWhatIsAdded"
    Effect   = "Allow"
    Action   = ["s3:PutObjectRetention"]
    Resource = ["${local.objects}*"]
  }]
  use_key = { for right, actions in { add = ["kms:GenerateDataKey", "kms:Decrypt"], read = ["kms:Decrypt"] } : right => [{
    Sid      = "UseKey"
    Effect   = "Allow"
    Action   = actions
    Resource = [var.kms_key_arn]
  }] }

  locks     = [for statement in local.lock_objects : statement if var.object_lock]
  keys_add  = [for statement in local.use_key.add : statement if var.kms_key_arn != null]
  keys_read = [for statement in local.use_key.read : statement if var.kms_key_arn != null]
  tails     = [for statement in local.delete_tails : statement if var.tails]

  additions = {
    policy-writer             = concat(local.tails, local.locks, local.keys_add)
    policy-pruner             = concat(local.locks, local.keys_add)
    policy-restorer           = local.keys_read
    bucket-policy-append-only = []
  }
  policy = {
    for name, document in local.document : name => jsonencode({
      Version   = document.Version
      Statement = concat(local.statements[name], local.additions[name])
    })
  }
}
