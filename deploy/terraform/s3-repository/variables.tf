variable "bucket" {
  description = "The bucket's name. It is created."
  type        = string
}

variable "prefix" {
  description = "What stands behind the bucket in s3://BUCKET/PREFIX; empty for a repository at its top."
  type        = string
  default     = ""

  validation {
    condition     = !startswith(var.prefix, "/") && !endswith(var.prefix, "/")
    error_message = "The prefix neither begins nor ends with a slash."
  }
}

variable "old_versions_days" {
  description = "How long replaced and deleted objects stay as older versions: time to notice who did it. null keeps them for ever, and with them every tail that the agent supersedes, one each [stream] tail_interval."
  type        = number
  default     = 30
}

variable "object_lock" {
  description = "Whether objects can be locked ([mirror] lock_days). Only possible when the bucket is created. The days are set for each object by Walkeep; a default retention of the bucket would lock leases."
  type        = bool
  default     = false
}

variable "kms_key_arn" {
  description = "A key of KMS to encrypt with; null encrypts with the service's own (AES256)."
  type        = string
  default     = null
}

variable "append_only" {
  description = "Whether uploads that could replace an object are refused for everybody. Set it after `walkeep init` has written walkeep.json."
  type        = bool
  default     = false
}

variable "create_policies" {
  description = "Whether the policies for writer, pruner and restorer are created in IAM; they are outputs in any case."
  type        = bool
  default     = true
}

variable "policy_name" {
  description = "What the names of those policies begin with."
  type        = string
  default     = "walkeep"
}

variable "tags" {
  description = "Tags of the bucket and the policies."
  type        = map(string)
  default     = {}
}
