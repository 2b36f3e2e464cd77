# A repository's bucket in a state of its own, which nothing but this directory uses.

terraform {
  backend "s3" {
    bucket = "example-terraform-state"
    key    = "walkeep/main.tfstate"
    region = "eu-central-1"
  }
}

provider "aws" {
  region = "eu-central-1"
}

module "repository" {
  source = "../s3-repository"

  bucket = "example-walkeep"
  prefix = "main"
}

output "url" {
  description = "For `walkeep init --mirror`."
  value       = module.repository.url
}

output "policy_arns" {
  description = "To be attached: the writer's to the database's host, the pruner's to another one."
  value       = module.repository.policy_arns
}
