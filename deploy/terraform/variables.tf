variable "region" {
  description = "The AWS region that everything lies in."
  type        = string
  default     = "eu-west-1"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "A region is written as in eu-west-1."
  }
}

variable "name" {
  description = "What every resource's name begins with; buckets' names allow lower case letters, digits and hyphens."
  type        = string
  default     = "gristmill"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,23}$", var.name))
    error_message = "The name has 2 to 24 lower case letters, digits and hyphens, and starts with a letter."
  }
}

variable "domain" {
  description = "The name that the API is reached by, as in api.example.org. Point it to the output `address`."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)+$", var.domain))
    error_message = "The domain is a full name in lower case, as in api.example.org."
  }
}

variable "instance_type" {
  description = "The machine that answers. t3.micro is within the free tier; its 1 GiB holds both slots of a release."
  type        = string
  default     = "t3.micro"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]*[.][a-z0-9]+$", var.instance_type))
    error_message = "An instance type is written as in t3.micro."
  }
}

variable "disk_gib" {
  description = "The size of the encrypted disk in GiB; 30 are within the free tier. It holds three releases and the predictions on their way to the warehouse."
  type        = number
  default     = 20

  validation {
    condition     = var.disk_gib >= 10 && var.disk_gib <= 1000
    error_message = "The disk has 10 to 1000 GiB."
  }
}

variable "ssh_public_key" {
  description = "The public half of the key that releases log in with, as in the file id_ed25519.pub."
  type        = string

  validation {
    condition     = can(regex("^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/=]+( [^\n]*)?$", trimspace(var.ssh_public_key)))
    error_message = "A public key begins with ssh-ed25519, ssh-rsa or ecdsa-sha2-nistp… and is one line; never give the private half."
  }
}

variable "ssh_from" {
  description = "The IPv4 ranges from which port 22 is reached, as in [\"203.0.113.7/32\"]. With none the port is closed, and ssh goes through Session Manager."
  type        = list(string)
  default     = []

  validation {
    # Two halves of the internet are the internet too, so that the range has to be a small one.
    condition = alltrue([
      for range in var.ssh_from : can(cidrnetmask(range)) && tonumber(split("/", range)[1]) >= 16
    ])
    error_message = "Each range is written as in 203.0.113.0/24, and is a /16 or smaller: ssh is not opened to the world."
  }
}

variable "database" {
  description = "The warehouse that predictions are shipped to, if it is not reached by HTTPS: its range and port, as in { range = \"203.0.113.7/32\", port = 5432 }."
  type        = object({ range = string, port = optional(number, 5432) })
  default     = null

  validation {
    condition     = var.database == null ? true : can(cidrnetmask(var.database.range))
    error_message = "The database's range is written as in 203.0.113.7/32."
  }
}

variable "github_repository" {
  description = "The repository whose main branch may release, as OWNER/NAME."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.github_repository))
    error_message = "The repository is written as OWNER/NAME; no pattern is taken."
  }
}

variable "github_identity_provider" {
  description = "The ARN of the account's identity provider for GitHub, where it already has one: an account can have only one. It is made where this is null."
  type        = string
  default     = null

  validation {
    condition     = var.github_identity_provider == null ? true : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:oidc-provider/token[.]actions[.]githubusercontent[.]com$", var.github_identity_provider))
    error_message = "The ARN ends in :oidc-provider/token.actions.githubusercontent.com."
  }
}
