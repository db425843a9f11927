"""The launcher for TPU VMs, against a cloud of directories: workers are homes in which it all really runs."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from snnlth_jax.machine import host_loss

pytestmark = pytest.mark.subprocess

LAUNCHER = Path(__file__).parent.parent / "experiments" / "tpu_vm.sh"
FLAGS = ["--name", "run1", "--zone", "us-west4-a", "--bucket", "gs://bucket/dir"]
COMMAND = ["--", "snnlth", "imp", "--dataset", "cifar10"]

# A VM is the directory $CLOUD/vm: its state in a file, and a home for each of two workers.
GCLOUD = r"""#!/usr/bin/env bash
{ printf 'gcloud'; printf ' %q' "$@"; echo; } >> "$CLOUD/log"
next() { head -n 1 "$CLOUD/$1" 2> /dev/null && sed -i 1d "$CLOUD/$1"; }  # of the lines in a file
failing() { [ "$(next "$1.fails")" ] && echo "ERROR: (gcloud) $1" >&2 && exit 1; }
[ "$1" = compute ] && failing "$4"
case "$1 $2 $3 $4" in
  "compute tpus tpu-vm list") cat "$CLOUD/vm/state" 2> /dev/null || true ;;
  "compute tpus tpu-vm create") mkdir -p "$CLOUD"/vm/{0,1} && echo READY > "$CLOUD/vm/state" ;;
  "compute tpus tpu-vm delete") rm -rf "$CLOUD/vm" ;;
  "compute tpus tpu-vm scp")
    for worker in 0 1; do cp "$5" "$CLOUD/vm/$worker/${6#*:}" || exit; done ;;
  "compute tpus tpu-vm ssh")
    for option; do case $option in --command=*) command=${option#--command=} ;; esac; done
    for worker in 0 1; do
      (cd "$CLOUD/vm/$worker" && HOME=$PWD WORKER=$worker bash -c "$command") || exit
    done ;;
  "storage rsync "*) echo '{}' > "$4/result.json" ;;
  *) echo "ERROR: (gcloud) Invalid choice" >&2; exit 2 ;;
esac
"""

# what the workers install: `snnlth` notes its arguments, then does the next line of $CLOUD/script.WORKER
CURL = r"""#!/usr/bin/env bash
echo 'mkdir -p ~/.local/bin && cp "$CLOUD/uv" ~/.local/bin/uv'
"""
UV = r"""#!/usr/bin/env bash
[ -e requirements-tpu.txt ] || exit 1  # the checkout is there
case $1 in
  venv) mkdir -p .venv/bin ;;
  pip) [ -d .venv ] && cp "$CLOUD/snnlth" .venv/bin/snnlth ;;
esac
"""
SNNLTH = r"""#!/usr/bin/env bash
{ printf '%q ' "$JAX_COMPILATION_CACHE_DIR" "$@"; echo; } >> "$CLOUD/started.$WORKER"
echo "output of worker $WORKER"
now=$(head -n 1 "$CLOUD/script.$WORKER" 2> /dev/null) && sed -i 1d "$CLOUD/script.$WORKER"
eval "${now:-exit 0}"
"""
PREEMPTION = 'echo PREEMPTED > "$CLOUD/vm/state"; exit 143'
# the process and those that would have written its exit status
RESTART_OF_THE_WORKER = "read -r _ _ _ parent _ < /proc/$PPID/stat; kill -9 $parent $PPID $$"


class Cloud:
    """The fake cloud, and a checkout to launch from."""

    def __init__(self, root: Path, checkout: Path):
        self.root, self.checkout, bin = root / "cloud", root / "checkout", root / "bin"
        self.root.mkdir()
        bin.mkdir()
        shutil.copytree(checkout, self.checkout)
        for path, text in {
            bin / "gcloud": GCLOUD,
            bin / "curl": CURL,
            self.root / "uv": UV,
            self.root / "snnlth": SNNLTH,
        }.items():
            path.write_text(text)
            path.chmod(0o755)
        self.env = {
            "PATH": f"{bin}:{os.environ['PATH']}",
            "CLOUD": str(self.root),
            "HOME": str(root),
            "SNNLTH_POLL_SECONDS": "0.05",
        }

    def script(self, *lines: str, workers: str = "01") -> None:
        """Outcome of the first run, of the second, ..."""
        for worker in workers:
            (self.root / f"script.{worker}").write_text("".join(f"{line}\n" for line in lines))

    def fails(self, verb: str, times: int) -> None:
        """The next calls of a verb of gcloud."""
        (self.root / f"{verb}.fails").write_text("yes\n" * times)

    def launch(self, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(self.checkout / "experiments" / "tpu_vm.sh"), *arguments],
            env=self.env | ({"PATH": path} if path else {}),
            cwd=self.root.parent,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def launching(self, *arguments: str) -> subprocess.Popen:
        script = str(self.checkout / "experiments" / "tpu_vm.sh")
        return subprocess.Popen([script, *arguments], env=self.env, stdout=subprocess.DEVNULL)

    def path_without_gcloud(self) -> str:
        directory = self.root / "without"
        directory.mkdir()
        for tool in ("bash", "dirname", "env"):
            (directory / tool).symlink_to(str(shutil.which(tool)))
        return str(directory)

    def lines(self, name: str) -> list[str]:
        path = self.root / name
        return path.read_text().splitlines() if path.exists() else []

    def calls(self) -> list[str]:
        """The commands of gcloud, those that only look left out but for the first."""
        return without_repeated_looks(self.lines("log"))

    def verbs(self) -> list[str]:
        """Calls that change something."""
        words = [shlex.split(line) for line in self.lines("log")]
        verbs = [word[2] if word[1] == "storage" else word[4] for word in words]
        return [verb for verb in verbs if verb in ("create", "delete", "scp", "rsync")]

    def started(self, worker: int = 0) -> list[list[str]]:
        """The compilation cache and the arguments of each run on a worker."""
        return [shlex.split(line) for line in self.lines(f"started.{worker}")]


def without_repeated_looks(lines: list[str]) -> list[str]:
    """Each pair of looks once: how often a run is found under way depends on the machine."""
    kept: list[str] = []
    for line in lines:
        kept.append(line)
        if kept[-2:] == kept[-4:-2]:
            del kept[-2:]
    return kept


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkout")
    (root / "experiments").mkdir()
    shutil.copy(LAUNCHER, root / "experiments")
    (root / "requirements-tpu.txt").write_text("jax[tpu]\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(root)]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "m"]):
        subprocess.run([*git, *arguments], check=True)
    return root


@pytest.fixture
def cloud(tmp_path, checkout):
    return Cloud(tmp_path, checkout)


def commands(dry_run: str) -> list[str]:
    return [line for line in dry_run.splitlines() if not line.startswith("#")]


def test_a_dry_run_prints_every_command_in_order_and_runs_none(cloud):
    done = cloud.launch("--dry-run", *FLAGS, "--spot", "--delete", *COMMAND)
    assert (done.returncode, done.stderr) == (0, "")
    words = [shlex.split(line) for line in commands(done.stdout)]
    gcloud = [word for word in words if word[0] == "gcloud"]
    assert [word[4] if word[1] == "compute" else word[2] for word in gcloud] == [
        *("list", "create", "list", "ssh", "scp", "ssh", "ssh"),
        *("list", "ssh", "rsync", "delete"),
    ]
    assert all("--zone=us-west4-a" in word for word in gcloud if word[1] == "compute")
    assert all("--worker=all" in word for word in gcloud if word[4] in ("ssh", "scp"))
    assert {"--spot", "--accelerator-type=v5litepod-8", "--version=v2-alpha-tpuv5-lite"} < set(gcloud[1])
    assert "requirements-tpu.txt" in gcloud[5][8]
    for part in ("gs://bucket/dir/runs/run1", "gs://bucket/dir/data", "gs://bucket/dir/jax_cache"):
        assert part in gcloud[6][8]
    assert "--distributed" in gcloud[6][8]
    assert gcloud[9][3:5] == ["gs://bucket/dir/runs/run1", "runs/run1"]
    # nothing was run, and no gcloud is needed
    assert cloud.lines("log") == []
    assert not (cloud.checkout / "runs").exists()
    again = cloud.launch(
        "--dry-run", *FLAGS, "--spot", "--delete", *COMMAND, path=cloud.path_without_gcloud()
    )
    assert again.stdout == done.stdout


def test_a_script_of_experiments_runs_there_too(cloud):
    (cloud.checkout / "experiments" / "fig9_snip.py").touch()
    said = cloud.launch("--dry-run", *FLAGS, "--", "experiments/fig9_snip.py", "--scale", "fast").stdout
    expected = ".venv/bin/python experiments/fig9_snip.py --scale fast --workdir gs://bucket/dir/runs/run1"
    assert f"{expected} --data-dir gs://bucket/dir/data --distributed" in said.replace("\\", "")


@pytest.mark.parametrize("how", ["launched", "pasted"])
def test_a_dry_run_does_not_lie(cloud, how):
    """The commands printed are those of an undisturbed run, and do the same when pasted into a shell."""
    said = cloud.launch("--dry-run", *FLAGS, "--project", "p", *COMMAND).stdout
    expected = [line for line in commands(said) if line.startswith("gcloud ")]
    if how == "launched":
        done = cloud.launch(*FLAGS, "--project", "p", *COMMAND)
    else:
        done = subprocess.run(["bash"], input=said, cwd=cloud.checkout, env=cloud.env, text=True, check=False)
    assert done.returncode == 0
    assert cloud.calls() == expected
    expected_run = ["gs://bucket/dir/jax_cache", "imp", "--dataset", "cifar10"]
    expected_run += ["--workdir", "gs://bucket/dir/runs/run1", "--data-dir", "gs://bucket/dir/data"]
    assert cloud.started(0) == cloud.started(1) == [[*expected_run, "--distributed"]]
    assert (cloud.checkout / "runs" / "run1" / "result.json").exists()


def test_it_says_where_the_results_are_and_how_to_delete_the_vm(cloud):
    done = cloud.launch(*FLAGS, *COMMAND)
    assert (done.returncode, done.stderr) == (0, "")
    last = done.stdout.splitlines()[-2:]
    assert last[0] == f"# results: {cloud.checkout}/runs/run1"
    assert last[1].endswith("gcloud compute tpus tpu-vm delete run1 --zone=us-west4-a")
    assert cloud.verbs() == ["create", "scp", "rsync"]


def test_delete_deletes_once_the_results_are_here(cloud):
    assert cloud.launch(*FLAGS, "--delete", *COMMAND).returncode == 0
    assert cloud.verbs() == ["create", "scp", "rsync", "delete"]


def test_a_preemption_leads_to_a_new_vm_and_the_same_command(cloud):
    cloud.script(f"sleep 0.2; {PREEMPTION}", "exit 0", workers="0")
    done = cloud.launch(*FLAGS, *COMMAND)
    assert (done.returncode, done.stderr) == (0, "")
    assert cloud.verbs() == ["create", "scp", "delete", "create", "scp", "rsync"]
    first, second = cloud.started(0)
    assert first == second


def test_a_run_that_ends_while_it_is_looked_for_is_not_started_again(cloud):
    """Its exit status is written between the look for one and the look for its processes."""
    flock = cloud.root.parent / "bin" / "flock"
    flock.write_text(
        f"""#!/usr/bin/env bash
        [ "$2" != lock ] || [ ! -e command ] || until [ -s status ]; do sleep 0.02; done
        exec {shutil.which("flock")} "$@"
        """
    )
    flock.chmod(0o755)
    cloud.script("sleep 0.3; exit 0", workers="01")
    assert cloud.launch(*FLAGS, *COMMAND).returncode == 0
    assert cloud.verbs() == ["create", "scp", "rsync"]
    assert len(cloud.started(0)) == len(cloud.started(1)) == 1


def test_a_vm_that_vanished_is_created_again_as_soon_as_there_is_one(cloud):
    cloud.script('echo yes > "$CLOUD/create.fails"; rm -r "$CLOUD/vm"', workers="0")
    done = cloud.launch(*FLAGS, *COMMAND)
    assert done.returncode == 0
    assert cloud.verbs() == ["create", "scp", "create", "create", "scp", "rsync"]


def test_a_failure_while_the_vm_is_taken_away_is_none_of_the_run(cloud):
    """It was seen to end before the VM was seen to be gone."""
    cloud.script('(sleep 0.35; echo TERMINATED > "$CLOUD/vm/state") & exit 137', "exit 0", workers="0")
    cloud.env["SNNLTH_POLL_SECONDS"] = "0.3"
    done = cloud.launch(*FLAGS, *COMMAND)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(cloud.started()) == 2


def test_stopped_with_a_checkpoint_means_again_on_the_same_vm(cloud):
    cloud.script("exit 75", "exit 75", "exit 0", workers="0")
    cloud.script("exit 75", "exit 134", "exit 0", workers="1")  # with the first gone, the other may well fail
    done = cloud.launch(*FLAGS, *COMMAND)
    assert (done.returncode, done.stderr) == (0, "")
    assert cloud.verbs() == ["create", "scp", "scp", "scp", "rsync"]
    assert len(cloud.started()) == 3


@pytest.mark.parametrize("status", [69, 134, 137])
def test_a_worker_that_was_killed_leads_to_the_same_command(cloud, status):
    """The other says that it lost one."""
    cloud.script("exit 69", "exit 0", workers="0")
    cloud.script(f"exit {status}", "exit 0", workers="1")
    done = cloud.launch(*FLAGS, *COMMAND)
    assert (done.returncode, done.stderr) == (0, "")
    assert cloud.verbs() == ["create", "scp", "scp", "rsync"]


def test_it_gives_up_a_run_that_loses_a_worker_each_time(cloud):
    cloud.script(*["sleep 0.2; exit 69"] * 30, workers="0")
    cloud.script(*["sleep 0.2; exit 137"] * 30, workers="1")
    cloud.env["SNNLTH_POLL_SECONDS"] = "0.02"
    done = cloud.launch(*FLAGS, *COMMAND)
    assert done.returncode == 69
    assert done.stderr.splitlines()[-1] == "tpu_vm: error: the run lost a worker 21 times"


def test_a_worker_that_was_restarted_below_the_run_leads_to_the_same_command(cloud):
    cloud.script(RESTART_OF_THE_WORKER, "exit 0")
    done = cloud.launch(*FLAGS, *COMMAND)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(cloud.started()) == 2


@pytest.mark.parametrize("status", [1, 2, 3, 139])
def test_a_failure_of_the_run_ends_it_with_its_last_lines(cloud, status):
    cloud.script(f"echo snnlth: error: why >&2; exit {status}", "exit 0")
    done = cloud.launch(*FLAGS, *COMMAND)
    assert done.returncode == status
    *output, last = done.stderr.splitlines()
    assert last == f"tpu_vm: error: the run ended with status {status}, its last lines are above"
    assert output.count("snnlth: error: why") == 2  # both workers
    assert "gcloud compute tpus tpu-vm delete run1" in done.stdout
    assert cloud.verbs() == ["create", "scp"]
    assert len(cloud.started()) == 1


def test_a_failure_on_one_worker_is_a_failure_once_the_others_have_ended(cloud):
    cloud.script("sleep 0.3; exit 69", workers="0")  # as those that lost one end
    cloud.script("exit 3", workers="1")
    assert cloud.launch(*FLAGS, *COMMAND).returncode == 3
    assert len(cloud.started()) == 1


def test_it_gives_up_a_run_that_never_comes_to_life(cloud):
    cloud.script(*[RESTART_OF_THE_WORKER] * 9)
    done = cloud.launch(*FLAGS, *COMMAND)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("tpu_vm: error: the run could not be reached or started")
    assert len(cloud.started()) == 5


@pytest.mark.parametrize("verb", ["list", "create"])
def test_what_fails_at_once_ends_it_with_what_gcloud_said(cloud, verb):
    cloud.fails(verb, 1)
    done = cloud.launch(*FLAGS, *COMMAND)
    assert done.returncode == 1
    said, last = done.stderr.splitlines()
    assert said == f"ERROR: (gcloud) {verb}"
    assert last.startswith("tpu_vm: error: the VM")


@pytest.mark.parametrize("verb", ["ssh", "scp"])
def test_what_fails_for_a_while_is_tried_again(cloud, verb):
    cloud.fails(verb, 3)
    done = cloud.launch(*FLAGS, *COMMAND)
    assert done.returncode == 0
    assert len(cloud.started()) == 1


def test_a_run_under_way_is_taken_up_and_not_started_again(cloud):
    cloud.script('for _ in {1..200}; do [ ! -e "$CLOUD/go" ] || exit 0; sleep 0.05; done; exit 9')
    with cloud.launching(*FLAGS, *COMMAND) as watching:
        while not cloud.started(1):
            assert watching.poll() is None
        watching.kill()  # the laptop is closed
    other = cloud.launch(*FLAGS, *COMMAND, "--seed", "1")
    assert other.returncode == 2
    assert other.stderr.startswith("tpu_vm: error: run1 is at another command: ")
    looks = len(cloud.lines("log"))
    with cloud.launching(*FLAGS, *COMMAND) as watching:
        while len(cloud.lines("log")) < looks + 3:  # it has looked at VM and run, and looks again
            assert watching.poll() is None
        (cloud.root / "go").touch()
    assert watching.returncode == 0
    assert len(cloud.started()) == 1
    assert cloud.verbs() == ["create", "scp", "rsync"]


def test_an_exit_status_from_before_is_not_that_of_the_new_run(cloud):
    cloud.script("exit 2", "exit 0")
    assert cloud.launch(*FLAGS, *COMMAND).returncode == 2
    assert cloud.launch(*FLAGS, *COMMAND).returncode == 0
    assert cloud.verbs() == ["create", "scp", "scp", "rsync"]


def test_arguments_reach_the_workers_as_they_are(cloud):
    odd = ["two  words", "it's", 'say "hi"', "$HOME `id` $(id)", "a;b&c|d>e<f", "*", "\\", "", "~", "{a,b}"]
    done = cloud.launch(*FLAGS, "--", "snnlth", "imp", *odd)
    assert (done.returncode, done.stderr) == (0, "")
    assert cloud.started(0)[0][2 : 2 + len(odd)] == odd
    assert cloud.started(1) == cloud.started(0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "--name: missing"),
        ("--zone z --bucket gs://b -- snnlth imp", "--name: missing"),
        ("--name n --bucket gs://b -- snnlth imp", "--zone: missing"),
        ("--name n --zone z -- snnlth imp", "--bucket: missing"),
        ("--name n --zone", "--zone: needs a value"),
        ("--name My_Run --zone z --bucket gs://b -- snnlth imp", "--name My_Run: allowed: lower-case"),
        ("--name n --zone z --bucket s3://b -- snnlth imp", "--bucket s3://b: allowed: gs://"),
        ("--name n --zone z --bucket gs:// -- snnlth imp", "--bucket gs://: allowed: gs://"),
        ("--name n --zone z --bucket gs://b --type a100 -- snnlth imp", "--type a100: allowed: v2-N"),
        ("--name n --zone z --bucket gs://b --sport -- snnlth imp", "--sport: unknown"),
        ("--name n --zone z --bucket gs://b snnlth imp", "snnlth: unknown; allowed: the flags"),
        ("--name n --zone z --bucket gs://b", "no command; allowed: -- snnlth"),
        ("--name n --zone z --bucket gs://b --", "no command; allowed: -- snnlth"),
        ("--name n --zone z --bucket gs://b -- snnlth", "no command; allowed: -- snnlth"),
        ("--name n --zone z --bucket gs://b -- python imp.py", "no command; allowed: -- snnlth"),
        ("--name n --zone z --bucket gs://b -- snnlth report runs", "no command; allowed: -- snnlth"),
        ("--name n --zone z --bucket gs://b -- experiments/fig0.py", "experiments/fig0.py: there is no such"),
        ("--name n --zone z --bucket gs://b -- snnlth imp --workdir w", "--workdir in the command"),
        ("--name n --zone z --bucket gs://b -- snnlth imp --data-dir=d", "--data-dir=d in the command"),
        ("--name n --zone z --bucket gs://b -- snnlth imp --data_dir d", "--data_dir in the command"),
        ("--name n --zone z --bucket gs://b -- snnlth imp --distributed", "--distributed in the command"),
    ],
)
def test_bad_input_is_one_line_and_status_2(cloud, arguments, expected):
    for dry_run in ([], ["--dry-run"]):
        done = cloud.launch(*dry_run, *arguments.split())
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"tpu_vm: error: {expected}")
        assert done.stderr.count("\n") == 1
    assert cloud.lines("log") == []
    assert not (cloud.checkout / "runs").exists()


def test_without_gcloud_it_says_so(cloud):
    done = cloud.launch(*FLAGS, *COMMAND, path=cloud.path_without_gcloud())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tpu_vm: error: gcloud is not installed")
    assert done.stderr.count("\n") == 1


def test_help_is_the_header_and_values_may_follow_an_equals_sign(cloud):
    done = cloud.launch("--help")
    assert done.returncode == 0
    for flag in ("name", "zone", "bucket", "type", "version", "project", "spot", "delete", "dry-run"):
        assert f"\n  --{flag} " in done.stdout
    joined = [f"{flag}={value}" for flag, value in zip(FLAGS[::2], FLAGS[1::2], strict=True)]
    assert (
        cloud.launch("--dry-run", *joined, *COMMAND).stdout
        == cloud.launch("--dry-run", *FLAGS, *COMMAND).stdout
    )


def test_a_job_of_skypilot_runs_again_after_the_statuses_that_ask_for_it():
    job = yaml.safe_load(LAUNCHER.with_name("sky.yaml").read_text())
    assert job["resources"]["job_recovery"]["recover_on_exit_codes"] == [host_loss.STATUS, 75]
    assert job["envs"] == {"BUCKET": None, "RUN": None, "NAME": "run"}
    assert "exec $RUN --workdir $BUCKET/runs/$NAME" in job["run"]
