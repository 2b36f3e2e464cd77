variable "bucket" {
  description = "The bucket's name."
  type        = string
}

variable "prefix" {
  description = "What stands behind the bucket in s3://BUCKET/PREFIX; empty for a repository at its top."
  type        = string
}

variable "tails" {
  description = "Whether writers may delete superseded tails, as the agent does while it streams."
  type        = bool
  default     = true
}

variable "object_lock" {
  description = "Whether writers lock what they add ([mirror] lock_days)."
  type        = bool
  default     = false
}

variable "kms_key_arn" {
  description = "The key of [mirror] kms_key; null without one."
  type        = string
  default     = null
}
