# A bucket for one repository. Keep it in a state of its own: whoever destroys the database's must not destroy its backups.

module "policies" {
  source = "./policies"

  bucket      = var.bucket
  prefix      = var.prefix
  object_lock = var.object_lock
  kms_key_arn = var.kms_key_arn
}

locals {
  path = var.prefix == "" ? "" : "${var.prefix}/"

  encrypted_only = {
    Sid       = "EncryptedConnectionsOnly"
    Effect    = "Deny"
    Principal = "*"
    Action    = ["s3:*"]
    Resource  = [aws_s3_bucket.repository.arn, "${aws_s3_bucket.repository.arn}/*"]
    Condition = { Bool = { "aws:SecureTransport" = "false" } }
  }
}

resource "aws_s3_bucket" "repository" {
  bucket              = var.bucket
  object_lock_enabled = var.object_lock
  force_destroy       = false
  tags                = var.tags

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_versioning" "repository" {
  bucket = aws_s3_bucket.repository.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "repository" {
  bucket = aws_s3_bucket.repository.id

  rule {
    bucket_key_enabled = var.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_ownership_controls" "repository" {
  bucket = aws_s3_bucket.repository.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_public_access_block" "repository" {
  bucket = aws_s3_bucket.repository.id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

# As s3-lifecycle.json. Nothing ever expires that is not an older version or an unfinished upload: a pack of the first day is
# part of the newest backup.
resource "aws_s3_bucket_lifecycle_configuration" "repository" {
  bucket = aws_s3_bucket.repository.id

  rule {
    id     = "walkeep-unfinished-uploads"
    status = "Enabled"

    filter {
      prefix = local.path
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }

  dynamic "rule" {
    for_each = var.old_versions_days == null ? [] : [var.old_versions_days]

    content {
      id     = "walkeep-replaced-versions"
      status = "Enabled"

      filter {
        prefix = local.path
      }

      noncurrent_version_expiration {
        noncurrent_days = rule.value
      }

      expiration {
        expired_object_delete_marker = true
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.repository]
}

resource "aws_s3_bucket_policy" "repository" {
  bucket = aws_s3_bucket.repository.id

  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat([local.encrypted_only], [for statement in jsondecode(module.policies.append_only).Statement : statement if var.append_only])
  })

  depends_on = [aws_s3_bucket_public_access_block.repository]
}

resource "aws_iam_policy" "repository" {
  for_each = {
    for role, policy in {
      writer   = module.policies.writer
      pruner   = module.policies.pruner
      restorer = module.policies.restorer
    } : role => policy if var.create_policies
  }

  name        = "${var.policy_name}-${each.key}"
  description = "Walkeep's repository in s3://${var.bucket}/${var.prefix}: ${each.key}"
  policy      = each.value
  tags        = var.tags
}
