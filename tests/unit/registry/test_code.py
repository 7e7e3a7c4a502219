"""The commit is read from the disk; git itself says whether that is right."""

import hashlib
import shutil
import subprocess

import pytest

from gristmill.registry.code import commit, described, project_code


def git(folder, *arguments):
    assert shutil.which("git"), "apt-get install git"
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path):
    """A git work tree with a project two folders down."""
    place = tmp_path / "tree"
    project = place / "projects" / "clients"
    project.mkdir(parents=True)
    (project / "gristmill.toml").write_text("[project]\n")
    git(place, "init", "--quiet", "--initial-branch", "main")
    git(place, "add", ".")
    git(place, "commit", "--quiet", "--message", "one")
    return place


def test_the_commit_of_a_branch_is_found_loose_and_packed_and_detached(tree):
    project = tree / "projects" / "clients"
    first = git(tree, "rev-parse", "HEAD")
    assert commit(project) == first

    git(tree, "commit", "--quiet", "--allow-empty", "--message", "two")
    second = git(tree, "rev-parse", "HEAD")
    assert commit(project) == second != first

    git(tree, "pack-refs", "--all")
    assert not (tree / ".git" / "refs" / "heads" / "main").exists()
    assert commit(project) == second

    git(tree, "checkout", "--quiet", "--detach", first)
    assert commit(project) == first


def test_a_work_tree_beside_has_its_own_commit_on_a_branch_of_the_repository(tree, tmp_path):
    git(tree, "worktree", "add", "--quiet", "-b", "other", str(tmp_path / "beside"))
    git(tmp_path / "beside", "commit", "--quiet", "--allow-empty", "--message", "there")

    there = git(tmp_path / "beside", "rev-parse", "HEAD")
    assert commit(tmp_path / "beside" / "projects" / "clients") == there
    assert commit(tree) == git(tree, "rev-parse", "HEAD") != there


def test_where_there_is_none_none_is_told(tmp_path):
    assert commit(tmp_path) is None
    (tmp_path / ".git").write_text("gitdir: nowhere\n")
    assert commit(tmp_path) is None
    (tmp_path / ".git").unlink()
    git(tmp_path, "init", "--quiet")
    assert commit(tmp_path) is None  # nothing was committed yet
    (tmp_path / ".git" / "HEAD").write_text("ref: HEAD\n")
    assert commit(tmp_path) is None
    (tmp_path / ".git" / "HEAD").write_bytes(b"\xff\xfe")
    assert commit(tmp_path) is None


def test_the_digests_tell_a_change_that_no_commit_holds(tree):
    project = tree / "projects" / "clients"
    before = project_code(project, ["gristmill.toml", "gone.sql"], {"own:make": "ab" * 32})
    (project / "gristmill.toml").write_text("[project]\n# changed\n")
    after = project_code(project, ["gristmill.toml"], {"own:make": "ab" * 32})

    assert before == {
        "commit": git(tree, "rev-parse", "HEAD"),
        "files": {
            "gristmill.toml": hashlib.sha256(b"[project]\n").hexdigest(),
            "own:make": "ab" * 32,
        },
    }
    assert before["commit"] == after["commit"]
    assert described(before) != described(after)
    assert described(before).startswith(f"commit {before['commit'][:12]}, files ")
    assert described({**before, "commit": None}).startswith("files ")
    assert described(None) == ""
