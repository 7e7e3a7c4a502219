"""The infrastructure, applied to a double of AWS: what is made, that it stays, that it goes."""

import base64
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from .tools import ROOT, need

pytestmark = pytest.mark.xdist_group("terraform")

REGION = "eu-west-1"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMIyeIr5nyyslPoEKYvyFvkOtqeeBKrMSe0uiLXNcQ6W release"
STATE = "gristmill-state"
DEBIAN = {
    "ami_id": "ami-00000000000000012",
    "name": "debian-12-amd64-20260101-1000",
    "description": "Debian 12",
    "owner_id": "136693071363",
    "public": True,
    "virtualization_type": "hvm",
    "architecture": "x86_64",
    "state": "available",
    "platform": None,
    "image_type": "machine",
    "hypervisor": "xen",
    "root_device_name": "/dev/xvda",
    "root_device_type": "ebs",
    "sriov": "simple",
    "creation_date": "2026-01-01T00:00:00.000Z",
}
UBUNTU = DEBIAN | {"ami_id": "ami-00000000000000024", "name": "ubuntu-24.04-amd64-20260601"}
FORGED = DEBIAN | {
    "ami_id": "ami-00000000000000666",
    "name": "debian-12-amd64-20260601-2000",
    "owner_id": "999999999999",
}
DOUBLE = """
provider "aws" {
  access_key                  = "key"
  secret_key                  = "secret"
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
}
"""


@dataclass(frozen=True, kw_only=True)
class Terraform:
    """A copy of deploy/terraform in which nothing reaches beyond this machine."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [need("terraform"), *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done


def provider_mirror() -> Path | None:
    """A folder that already holds the AWS provider, as where no registry is reached."""
    named = os.environ.get("GRISTMILL_TERRAFORM_MIRROR")
    places = [named] if named else ["/opt/tf-plugins", "/usr/share/terraform/plugins"]
    provider = "registry.terraform.io/hashicorp/aws"
    return next((Path(place) for place in places if (Path(place) / provider).is_dir()), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """deploy/terraform, copied and pointed at a double."""
    copy = tmp_path_factory.mktemp("terraform") / "deploy" / "terraform"
    shutil.copytree(ROOT / "deploy", copy.parent, ignore=shutil.ignore_patterns(".terraform"))
    (copy / "double_override.tf").write_text(DOUBLE)
    return copy


@pytest.fixture(scope="module")
def terraform(folder: Path, aws: str, state_bucket: str) -> Terraform:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {
        "CHECKPOINT_DISABLE": "1",
        "TF_IN_AUTOMATION": "1",
        "TF_CLI_ARGS": "-no-color",
        "TF_INPUT": "0",
        "TF_DATA_DIR": str(folder.parent / "terraform-data"),
        "AWS_ENDPOINT_URL": aws,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "TF_VAR_region": REGION,
        "TF_VAR_domain": "api.example.org",
        "TF_VAR_ssh_public_key": KEY,
        "TF_VAR_github_repository": "example/clients",
    }
    mirror = provider_mirror()
    if mirror is not None:
        configuration = folder.parent / "terraformrc"
        configuration.write_text(
            f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n'
        )
        environment["TF_CLI_CONFIG_FILE"] = str(configuration)
    terraform = Terraform(folder=folder, environment=environment)
    # moto denies what a policy denies under a condition without looking at the condition.
    client("s3", aws).delete_bucket_policy(Bucket=state_bucket)
    terraform(
        "init",
        "-lockfile=readonly",
        f"-backend-config=bucket={state_bucket}",
        f"-backend-config=region={REGION}",
        "-backend-config=use_path_style=true",
        "-backend-config=skip_credentials_validation=true",
        "-backend-config=skip_requesting_account_id=true",
    )
    return terraform


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a double of AWS that knows three images, one of which is Debian's own."""
    folder = tmp_path_factory.mktemp("aws")
    images = folder / "images.json"
    images.write_text(json.dumps([DEBIAN, UBUNTU, FORGED]))
    log = folder / "moto.log"
    code = (
        "from moto.server import ThreadedMotoServer\nimport sys, time\n"
        "server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)\n"
        "server.start()\nprint(server.get_host_and_port()[1], flush=True)\nsys.stdin.read()\n"
    )
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"MOTO_AMIS_PATH": str(images)},
        )
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    assert port, log.read_text()
    endpoint = f"http://127.0.0.1:{port}"
    yield endpoint
    with process:
        process.kill()


def client(service: str, endpoint: str):
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )


def policy(text: str | dict) -> list[dict]:
    """The statements of a policy, as the double gives it back."""
    document = json.loads(text) if isinstance(text, str) else text
    return document["Statement"]


ONLY_BY_TLS = {
    "Sid": "OnlyByTls",
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}
PRIVATE = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": True,
    "RestrictPublicBuckets": True,
}


def assert_kept_private(s3, bucket: str) -> None:
    """Versioned, encrypted, not public, and by TLS only."""
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert [rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] for rule in rules] == [
        "AES256"
    ]
    blocked = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert blocked == PRIVATE
    [statement] = policy(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    resources = {f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"}
    assert set(statement.pop("Resource")) == resources
    assert statement == ONLY_BY_TLS


@pytest.fixture(scope="module")
def state_bucket(aws: str) -> str:
    """The bucket of the state, made twice by the script that the page names."""
    environment = {
        "PATH": f"{Path(need('aws')).parent}:{os.environ['PATH']}",
        "AWS_ENDPOINT_URL": aws,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    for _ in range(2):
        subprocess.run(
            [ROOT / "deploy/terraform/state-bucket", STATE, REGION], env=environment, check=True
        )
    assert_kept_private(client("s3", aws), STATE)
    return STATE


@pytest.fixture(scope="module")
def applied(terraform: Terraform) -> dict[str, str]:
    """The outputs, once everything is there."""
    terraform("apply", "-auto-approve")
    outputs = json.loads(terraform("output", "-json").stdout)
    return {name: output["value"] for name, output in outputs.items()}


@pytest.fixture(scope="module")
def host(aws: str, applied: dict[str, str]) -> dict:
    """The instance, as EC2 describes it."""
    described = client("ec2", aws).describe_instances(InstanceIds=[applied["instance"]])
    return described["Reservations"][0]["Instances"][0]


def rules_of(aws: str, host: dict, *, egress: bool) -> set[tuple]:
    """Protocol, first port, last port and range of every rule of the host's groups."""
    groups = [group["GroupId"] for group in host["SecurityGroups"]]
    rules = client("ec2", aws).describe_security_group_rules(
        Filters=[{"Name": "group-id", "Values": groups}]
    )["SecurityGroupRules"]
    return {
        (rule["IpProtocol"], rule["FromPort"], rule["ToPort"], rule["CidrIpv4"])
        for rule in rules
        if rule["IsEgress"] is egress
    }


def test_the_world_reaches_the_web_and_nothing_else(aws, host):
    web = {("tcp", port, port, "0.0.0.0/0") for port in (80, 443)}
    assert rules_of(aws, host, egress=False) == web
    assert rules_of(aws, host, egress=True) == web


def test_the_host_is_debians_own_image_behind_the_elastic_address(host, applied):
    assert host["ImageId"] == DEBIAN["ami_id"]
    assert host["PublicIpAddress"] == applied["address"]
    assert host["MetadataOptions"]["HttpTokens"] == "required"
    assert "KeyName" not in host


def test_the_disk_is_encrypted(aws, host):
    attached = [{"Name": "attachment.instance-id", "Values": [host["InstanceId"]]}]
    volumes = client("ec2", aws).describe_volumes(Filters=attached)["Volumes"]
    assert [(volume["Encrypted"], volume["VolumeType"]) for volume in volumes] == [(True, "gp3")]


def test_the_first_start_prepares_the_host_with_the_scripts_as_they_are(aws, host):
    told = client("ec2", aws).describe_instance_attribute(
        InstanceId=host["InstanceId"], Attribute="userData"
    )["UserData"]["Value"]
    packed = base64.b64decode(told)
    assert len(packed) <= 16384  # EC2 takes no more
    header, _, text = gzip.decompress(packed).decode().partition("\n")
    assert header == "#cloud-config"
    cloud = json.loads(text)
    laid = {Path(file["path"]).name: file for file in cloud["write_files"]}
    for source in [*(ROOT / "deploy/host").iterdir(), ROOT / "deploy/terraform/session-manager"]:
        if source.is_file():
            assert laid[source.name]["content"] == source.read_text()
    first, second = cloud["runcmd"]
    assert first == [laid["session-manager"]["path"]]
    assert second == [laid["prepare-host"]["path"], "api.example.org", KEY]


def test_the_host_may_be_reached_through_session_manager_and_nothing_else(aws, host):
    iam = client("iam", aws)
    profile = host["IamInstanceProfile"]["Arn"].rpartition("/")[2]
    [role] = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
    attached = iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]
    assert attached == []
    [name] = iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
    document = iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"]
    [statement] = policy(document)
    assert statement["Effect"] == "Allow"
    assert {action.partition(":")[0] for action in statement["Action"]} == {"ssm", "ssmmessages"}
    assert not any(action.partition(":")[2].startswith("Get") for action in statement["Action"])
    assert not any("*" in action for action in statement["Action"])


def test_only_main_of_the_repository_may_take_the_role_that_releases(aws, applied):
    name = applied["release_role"].rpartition("/")[2]
    role = client("iam", aws).get_role(RoleName=name)["Role"]
    [statement] = policy(role["AssumeRolePolicyDocument"])
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    claims = {
        key.rpartition(":")[2]: value
        for key, value in statement["Condition"].pop("StringEquals").items()
    }
    assert statement["Condition"] == {}
    assert claims == {
        "aud": "sts.amazonaws.com",
        "sub": "repo:example/clients:environment:production",
        "ref": "refs/heads/main",
    }


def test_a_release_takes_bundles_reaches_ssh_of_this_host_and_nothing_else(aws, host, applied):
    iam, name = client("iam", aws), applied["release_role"].rpartition("/")[2]
    [inline] = iam.list_role_policies(RoleName=name)["PolicyNames"]
    assert iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == []
    document = iam.get_role_policy(RoleName=name, PolicyName=inline)["PolicyDocument"]
    allowed = {
        action: statement["Resource"]
        for statement in policy(document)
        for action in (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
    }
    bucket = f"arn:aws:s3:::{applied['bundles'].removeprefix('s3://')}"
    session = "arn:aws:ssm:*:*:session/${aws:userid}-*"
    assert {
        action: sorted([what] if isinstance(what, str) else what)
        for action, what in allowed.items()
    } == {
        "s3:GetObject": [f"{bucket}/*"],
        "s3:ListBucket": [bucket],
        "ssm:StartSession": [
            f"arn:aws:ec2:{REGION}:123456789012:instance/{host['InstanceId']}",
            f"arn:aws:ssm:{REGION}::document/AWS-StartSSHSession",
        ],
        "ssm:TerminateSession": [session],
        "ssm:ResumeSession": [session],
    }


def test_who_publishes_adds_bundles_and_takes_none_away(aws, applied):
    iam = client("iam", aws)
    version = iam.get_policy(PolicyArn=applied["publish_policy"])["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=applied["publish_policy"], VersionId=version)
    statements = policy(document["PolicyVersion"]["Document"])
    actions = {
        action
        for statement in statements
        for action in (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
    }
    assert actions == {"s3:PutObject", "s3:GetObject", "s3:ListBucket"}


def test_the_bundles_are_private_and_kept(aws, applied):
    assert_kept_private(client("s3", aws), applied["bundles"].removeprefix("s3://"))


def test_a_second_plan_is_empty(terraform, applied):
    plan = terraform("plan", "-detailed-exitcode", check=False)
    assert plan.returncode == 0, plan.stdout + plan.stderr  # 2 is: something would change


def test_two_do_not_change_it_at_once(aws, terraform, applied):
    """Somebody else holds the state's lock file."""
    s3 = client("s3", aws)
    held = {
        "ID": "1",
        "Operation": "apply",
        "Who": "somebody@else",
        "Created": "2026-01-01T00:00:00Z",
    }
    s3.put_object(Bucket=STATE, Key="gristmill.tfstate.tflock", Body=json.dumps(held).encode())
    try:
        refused = terraform("apply", "-auto-approve", check=False)
    finally:
        s3.delete_object(Bucket=STATE, Key="gristmill.tfstate.tflock")
    assert refused.returncode == 1
    assert "Error acquiring the state lock" in refused.stderr
    assert "somebody@else" in refused.stderr


def test_the_plans_own_tests_pass(terraform):
    assert "0 failed" in terraform("test").stdout


def test_the_plans_own_tests_notice_ssh_that_is_open_to_the_world(terraform, tmp_path):
    opened = tmp_path / "deploy" / "terraform"
    shutil.copytree(
        terraform.folder.parent, opened.parent, ignore=shutil.ignore_patterns("terraform-data")
    )
    network = opened / "network.tf"
    text = network.read_text()
    assert text.count("toset(var.ssh_from)") == 1
    network.write_text(text.replace("toset(var.ssh_from)", 'toset(["0.0.0.0/0"])'))
    spoilt = Terraform(folder=opened, environment=terraform.environment)
    noticed = spoilt("test", "-filter=tests/network.tftest.hcl", check=False)
    assert noticed.returncode == 1
    assert "Port 22 is open although no range was named" in noticed.stdout + noticed.stderr


def test_destroy_leaves_nothing_but_the_state(aws, terraform, applied):
    terraform("destroy", "-auto-approve")
    assert terraform("state", "list").stdout == ""
    ec2, iam = client("ec2", aws), client("iam", aws)
    instances = [
        instance["State"]["Name"]
        for reservation in ec2.describe_instances()["Reservations"]
        for instance in reservation["Instances"]
    ]
    assert set(instances) <= {"terminated"}
    assert [vpc["IsDefault"] for vpc in ec2.describe_vpcs()["Vpcs"]] == [True]
    assert ec2.describe_addresses()["Addresses"] == []
    assert iam.list_roles()["Roles"] == []
    assert iam.list_policies(Scope="Local")["Policies"] == []
    assert iam.list_open_id_connect_providers()["OpenIDConnectProviderList"] == []
    assert [bucket["Name"] for bucket in client("s3", aws).list_buckets()["Buckets"]] == [STATE]
