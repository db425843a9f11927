"""The command line of a newcomer: versions, help, completion, slips of the pen, configuration files."""

import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import snnlth_jax
from snnlth_jax import cli, configs, tickets
from snnlth_jax.cli import COMMANDS, main
from snnlth_jax.commands import demo, words
from snnlth_jax.errors import InputError
from snnlth_jax.run import directory, earlier

SEARCHES = ("imp", "eb", "one-shot", "dynamic", "transfer", "probe-timesteps", "stability")


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    """Each test in a directory of its own, on a terminal of 100 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def shown(capsys, *arguments):
    """Output of a command that asks for help."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *arguments):
    """The line of a command that is refused."""
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.removeprefix("snnlth: error: ").rstrip()


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"snnlth_jax {snnlth_jax.__version__}\n"


@pytest.mark.subprocess
def test_the_package_is_the_command():
    command = [sys.executable, "-m", "snnlth_jax", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == f"snnlth_jax {snnlth_jax.__version__}\n"


def test_help_lists_every_command_and_each_has_its_own(capsys):
    overview = shown(capsys, "help")
    assert overview == shown(capsys, "--help") == shown(capsys, "-h")
    for name in COMMANDS:
        assert re.search(rf"^  {name.split()[0]} ", overview, re.M)
    assert "transplant" in shown(capsys, "help", "ticket")
    assert shown(capsys, "help", "imp") == shown(capsys, "imp", "--help")
    assert shown(capsys, "help", "ticket", "diff") == shown(capsys, "ticket", "diff", "--help")
    assert "nearest: imp" in refused(capsys, "help", "impp")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_and_says_every_flag_and_default(name, capsys):
    words, (command, _) = name.split(), COMMANDS[name]
    whole, short = shown(capsys, *words, "--help"), shown(capsys, *words, "-h")
    for text in (whole, short):
        assert max(map(len, text.splitlines())) <= 100
        assert "None" not in text
        assert "default: )" not in text
        assert "default: ''" not in text
        for field in dataclasses.fields(command):
            flag = field.name.rstrip("_").replace("_", "-")
            if "Positional" not in str(field.type):
                assert re.search(rf"^  --(\[no-\])?{flag}( |$)", text, re.M)
    assert len(short.splitlines()) <= len(whole.splitlines())


def test_help_has_the_search_first_and_the_defaults_of_the_dataset(capsys):
    text = shown(capsys, "imp", "--help")
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "rounds:"
    assert headings.index("rounds:") < headings.index("network:") < headings.index("devices:")
    flags = re.findall(r"^  (--[a-z-]+)", text, re.M)
    assert flags[0] == "--rounds"

    def default(text, flag):
        entry = re.search(rf"^  {flag} .*?(?=\n  -|\n\n)", text, re.M | re.S)[0]
        return re.search(r"\(default: (.*)\)$", " ".join(entry.split()))[1]

    paper = shown(capsys, "imp", "--dataset", "cifar10", "--help")
    for flag, digits, cifar10 in (
        *(("--rounds", "12", "15"), ("--epochs", "15", "300"), ("--batch-size", "64", "128")),
        *(("--arch", "vgg5", "vgg16"), ("--rewind-epoch", "1", "20"), ("--learning-rate", "0.1", "0.3")),
        *(
            ("--augment", "crop", "crop,flip,cutout"),
            ("--final-rounds", "11", "14"),
            ("--surrogate-scale", "2", "2"),
        ),
    ):
        assert default(text, flag) == digits
        assert default(paper, flag) == cifar10
    assert default(shown(capsys, "imp", "--epochs", "3", "-h"), "--epochs") == "3"
    assert shown(capsys, "imp", "--epochs", "nothing", "-h") == shown(capsys, "imp", "-h")


def test_help_of_train_has_the_defaults_of_the_ticket(capsys):
    assert "(default: the ticket's)" in shown(capsys, "train", "-h")
    ticket = str(next(Path(__file__).parents[1].glob("zoo/*imp_*/ticket.safetensors")))
    text = shown(capsys, "train", ticket, "-h")
    for flag, name in (("learning-rate", "learning_rate"), ("rewind-epoch", "rewind_epoch")):
        (value,) = re.findall(rf"--{flag} [A-Z]+.*?default: ([0-9.]+)", text, re.S)
        assert float(value) == tickets.load(ticket).provenance[name]
    assert "default: the ticket's" not in text


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["snnlth", "tr"], {"train", "transfer"}),
        (["snnlth", "ticket", "d"], {"diff"}),
        (["snnlth", "imp", "--rou"], {"--rounds"}),
        (["snnlth", "imp", "--dataset", "cifar"], {"cifar10", "cifar100"}),
        (["snnlth", "eb", "--schedule", "c"], {"cosine"}),
        (["snnlth", "ticket", "combine", "--out"], {"--output"}),
        (["snnlth", "help", "e"], {"eb", "eval", "export"}),
        (["snnlth", "imp", "--dataset", "=", "cifar"], {"cifar10", "cifar100"}),  # bash parts words at "="
        (["snnlth", "data", "ch"], {"check"}),
        (["snnlth", "completion", "b"], {"bash"}),
    ],
)
def test_bash_completes(words, completed, capsys, tmp_path):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    program = f"source ./script; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
    program += 'COMPREPLY=(); _snnlth; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()) == completed
    assert done.stderr == ""


# ---------------------------------------------------------------- slips of the pen


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        ("imp --epoch 3", "--epochs"),
        ("imp --lr 3", "--learning-rate"),
        ("imp --end_iter 3", "--epochs"),  # the authors' name
        ("imp --timesteps 3", "--num-timesteps"),
        ("imp -epochs 3", "--epochs"),
        ("imp --rewind-epoc 3", "--rewind-epoch"),
        ("imp --shedule=step", "--schedule"),
        ("train x --epcohs 3", "--epochs"),
        ("ticket combine a b --ouput c", "--output"),
        ("report --outptu x", "--output"),
        ("impp", "imp"),
        ("Reprot x", "report"),
        ("ticket verifi a", "verify"),
        ("imp --schedule Cosin", "cosine"),
        ("imp --dataset CIFAR11", "cifar10"),
        ("imp --arch VGG166", "vgg16"),
        ("imp --controls ramdom", "random"),
        ("imp --augment corp", "crop"),
        ("export x --to ONX --output y", "onnx"),
        ("one-shot --method snip", "--criterion"),
        ("--verison", "--version"),
    ],
)
def test_the_nearest_name_is_suggested(arguments, nearest, capsys, empty_directory):
    line = refused(capsys, *arguments.split())
    assert re.search(rf"nearest: {nearest}( |$)", line), line
    assert list(empty_directory.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("imp --epochs ten", "--epochs ten: allowed: a whole number"),
        ("imp --epochs 2.5", "--epochs 2.5: allowed: a whole number"),
        ("imp --seed=0-2", "--seed 0-2: allowed: a whole number"),
        ("imp --sparsity 90%", "--sparsity 90%: allowed: a number"),
        ("imp --width wide", "--width wide: allowed: a number"),
        ("imp --seeds 0 1", "--seeds 0 1: allowed: with commas, as 0,1"),
        ("imp --controls random dense", "--controls random dense: allowed: with commas, as random,dense"),
    ],
)
def test_the_line_says_how_a_value_is_written(arguments, line, capsys):
    assert refused(capsys, *arguments.split()) == line


def test_an_option_of_other_commands_is_said_to_be_theirs(capsys):
    assert "--rounds, 3; options of imp, transfer" in refused(capsys, "eb", "--rounds", "3")
    assert "nearest" not in refused(capsys, "imp", "--frobnicate", "3")


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        ("imp --dataset CIFAR10", "dataset", "cifar10"),
        ("imp --dataset=Fashion-MNIST", "dataset", "fashion_mnist"),
        ("IMP --dtype BF16", "dtype", "bfloat16"),
        ("imp --dtype bf16", "dtype", "bfloat16"),
        ("eb --dtype FP32", "dtype", "float32"),
        ("imp --arch VGG-16", "arch", "vgg16"),
        ("imp --arch ResNet19", "arch", "resnet19"),
        ("imp --Scope LAYER", "scope", "layer"),
        ("imp --controls Random,DENSE", "controls", ("random", "dense")),
        ("imp --augment Crop,Flip", "augment", ("crop", "flip")),
        ("imp --augment None", "augment", False),
        ("imp --v-reset None", "v_reset", "none"),
        ("imp --surrogate FastSigmoid", "surrogate", "fast_sigmoid"),
        ("one-shot --criterion SNIP", "criterion", "snip"),
        ("export x --to ONNX --output y", "to", "onnx"),
        ("data CHECK digits", "action", "check"),
        ("imp --seeds 0-4", "seeds", (0, 1, 2, 3, 4)),
        ("imp --seeds 0-2,7", "seeds", (0, 1, 2, 7)),
        ("imp --final-rounds 2-4", "final_rounds", (2, 3, 4)),
        ("imp --arch_option A=B", "arch_option", ("A=B",)),
    ],
)
def test_names_forgive_case_and_ranges_are_lists(arguments, field, value):
    assert getattr(words.parse(arguments.split())[1], field) == value


def test_a_folder_comes_before_a_name_in_another_case(empty_directory):
    (empty_directory / "CIFAR10").mkdir()
    assert words.parse(["imp", "--dataset", "CIFAR10"])[1].dataset == "CIFAR10"


@pytest.mark.parametrize("seeds", ["4-0", "0-99999", "1-", "-2-3", "0-2,1"])
def test_ranges_that_mean_nothing_are_refused(seeds, capsys):
    assert "--seeds" in refused(capsys, "imp", f"--seeds={seeds}")


# ---------------------------------------------------------------- defaults that follow others


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (configs.ImpConfig(dataset="cifar10", epochs=10), {"rewind_epoch": 1}),
        (configs.ImpConfig(dataset="cifar10", epochs=150), {"rewind_epoch": 10}),
        (configs.ImpConfig(dataset="svhn_cropped", epochs=30), {"rewind_epoch": 4}),
        (configs.ImpConfig(epochs=1), {"rewind_epoch": 0}),
        (configs.ImpConfig(epochs=2, early_time=True), {"rewind_epoch": 1, "early_time_epochs": 1}),
        (configs.TransferConfig(dataset="cifar100", epochs=60), {"rewind_epoch": 4}),
        (configs.ImpConfig(epochs=150, rewind_epoch=3), {"rewind_epoch": 3}),
        (configs.EbConfig(epochs=2), {"queue": 3}),
        (configs.EbConfig(), {"queue": 5}),
        (configs.ImpConfig(train_examples=32), {"batch_size": 32}),
        (configs.ImpConfig(train_examples=100, validation_examples=1400), {"batch_size": 37}),
        (configs.ImpConfig(dataset="cifar10", train_examples=100, batch_size=50), {"batch_size": 50}),
    ],
)
def test_defaults_follow_each_other(config, expected):
    resolved = configs.resolve(config)
    assert {name: getattr(resolved, name) for name in expected} == expected


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_no_flag_is_refused_that_nobody_gave(name, epochs, dataset):
    config = COMMANDS[name][0](dataset=dataset, epochs=epochs)
    if (name, epochs) == ("dynamic", 1):  # masks that never move
        with pytest.raises(InputError, match=r"^epochs 1: allowed: 2 or more"):
            configs.resolve(config)
    else:
        configs.resolve(config)


def test_a_run_of_an_earlier_version_is_resumed_with_its_defaults(empty_directory):
    """It had the rewind epoch of the default number of epochs."""
    config = configs.ImpConfig(epochs=45, workdir="run")
    resolved = configs.resolve(config)
    assert earlier.adopted(config, resolved) == resolved
    before = configs.resolve_as_before(config)
    assert (resolved.rewind_epoch, before.rewind_epoch) == (3, 1)
    images = configs.Images("digits", "digits-0")
    directory.claim(directory.paths("run"), configs.identity(before, images))
    assert earlier.adopted(config, resolved) == before
    assert earlier.adopted(resolved, resolved) == resolved  # nothing of it was left open
    other = dataclasses.replace(config, width=0.5)
    assert earlier.adopted(other, configs.resolve(other)).rewind_epoch == 3  # and is refused there


# ---------------------------------------------------------------- default directories


def begun(config):
    """Make the directory of a configuration that of its run."""
    images = configs.Images("digits", "digits-0")
    directory.claim(directory.paths(config.workdir), configs.identity(config, images))


def settled(config):
    return earlier.adopted(config, configs.resolve(config))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (configs.ImpConfig(), "imp_digits_vgg5_seed0"),
        (configs.ImpConfig(epochs=15, width=1.0, rounds=12), "imp_digits_vgg5_seed0"),
        (configs.ImpConfig(width=0.25), "imp_digits_vgg5_width0.25_seed0"),
        (configs.ImpConfig(learning_rate=0.2, num_timesteps=3), "imp_digits_vgg5_T3_lr0.2_seed0"),
        (configs.ImpConfig(epochs=30), "imp_digits_vgg5_epochs30_seed0"),  # nothing of what follows from it
        (configs.ImpConfig(augment=False, seeds=(0, 1)), "imp_digits_vgg5_no-augment"),
        (configs.ImpConfig(controls=("random", "dense")), "imp_digits_vgg5_controls-random-dense_seed0"),
        (configs.EbConfig(sparsity=0.5, scope="erk", seed=3), "eb_0.5_digits_vgg5_scope-erk_seed3"),
        (configs.OneShotConfig(criterion="grasp"), "one-shot_grasp_0.9_digits_vgg5_seed0"),
        (configs.ImpConfig(devices=4, checkpoint_every=3, dry_run=True), "imp_digits_vgg5_seed0"),
    ],
)
def test_the_default_directory_names_what_differs(config, name):
    assert configs.resolve(config).workdir == f"runs/{name}"


def test_a_long_name_is_cut_and_stays_apart():
    many = {"neuron": "plif", "norm": "bntt", "loss": "tet", "optimizer": "adam", "surrogate": "sigmoid"}
    many |= {
        "weight_decay": 1e-4,
        "label_smoothing": 0.1,
        "dtype": "bfloat16",
        "v_reset": "none",
        "epochs": 7,
    }
    first = configs.resolve(configs.ImpConfig(**many, eval_every=3, test_examples=100))
    second = configs.resolve(configs.ImpConfig(**many, eval_every=3, test_examples=101))
    assert first.workdir != second.workdir
    assert len(first.workdir) < 160


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
@pytest.mark.parametrize("command", ["imp", "eb", "one-shot", "dynamic", "transfer", "probe-timesteps"])
def test_a_default_that_is_given_changes_nothing(command, dataset, capsys, empty_directory):
    """Each as the help prints it."""
    of_dataset = [command, "--dataset", dataset]
    with pytest.raises(SystemExit):
        main([*of_dataset, "--help"])
    plain = configs.resolve(words.parse(of_dataset)[1])
    entries = re.split(r"\n  (?=--)", re.sub(r"\n {10,}", " ", capsys.readouterr().out))
    printed = re.findall(r"^(--[a-z-]+) .*\(default: (.+)\)", "\n".join(entries), re.MULTILINE)
    assert len(printed) > 20
    for flag, value in printed:
        assert configs.resolve(words.parse([*of_dataset, flag, value])[1]) == plain, (flag, value)


@pytest.mark.parametrize("workdir", ["run", None])
@pytest.mark.parametrize("epochs", [None, 45])
def test_a_run_that_began_with_the_steps_of_its_dataset_resumes(workdir, epochs, empty_directory):
    config = configs.ImpConfig(augment=("crop",), epochs=epochs, workdir=workdir)
    assert configs.resolve(config).augment is True
    begun(before := configs.resolve_with_steps(config))
    assert before.augment == ("crop",)
    assert before.workdir == workdir or "_augment-crop_" in before.workdir
    assert settled(config) == before


def test_a_run_in_the_directory_of_before_is_found_there(empty_directory):
    config = configs.ImpConfig(width=0.25, epochs=45)
    new = configs.resolve(config)
    assert settled(config) == new
    before = configs.resolve_as_before(config)
    assert before.workdir == "runs/imp_digits_vgg5_seed0"
    begun(before)
    assert settled(config) == before
    other = configs.ImpConfig(width=0.5)
    assert settled(other).workdir == "runs/imp_digits_vgg5_width0.5_seed0"  # the old one is another's
    begun(new)
    assert settled(config) == new


def test_override_finds_the_run_that_it_is_for(empty_directory):
    begun(configs.resolve(configs.ImpConfig(rounds=3)))
    more = configs.ImpConfig(rounds=5, override=True)
    assert settled(more).workdir == "runs/imp_digits_vgg5_rounds3_seed0"
    assert settled(dataclasses.replace(more, width=0.5)).workdir.endswith("_width0.5_rounds5_seed0")
    begun(configs.resolve(configs.ImpConfig(rounds=4)))
    with pytest.raises(InputError, match=r"override: may be for runs/.*rounds3_seed0, runs/.*rounds4_seed0"):
        settled(more)


def test_a_shorter_search_is_mentioned(empty_directory, caplog):
    begun(configs.resolve(configs.ImpConfig(rounds=3)))
    with caplog.at_level("INFO", logger="snnlth_jax"):
        settled(configs.ImpConfig(rounds=5, final_rounds=(2,)))
    assert "runs/imp_digits_vgg5_rounds3_seed0 differs in --rounds alone: --override" in caplog.text


# ---------------------------------------------------------------- configuration files


SETTINGS = [
    configs.ImpConfig(epochs=3, width=0.25, augment=("flip", "crop"), controls=("random",), v_reset="none"),
    configs.ImpConfig(sparsity=0.97),
    configs.ImpConfig(sparsity=0.97, rounds=6),
    configs.ImpConfig(rounds=1, augment=False, seeds=(0, 3)),
    configs.ImpConfig(early_time=True, activation="lif", final_rounds=(3, 1), arch="resnet7"),
    configs.EbConfig(epochs=2, dtype="bfloat16", surrogate="sigmoid", data_dir='a "quoted" \\ place'),
    configs.OneShotConfig(criterion="grasp", score_examples=5),
    configs.DynamicConfig(),
    configs.TransferConfig(search_learning_rate_factor=0.1),
    configs.ProbeConfig(epochs=3),
    configs.StabilityConfig(stability_epochs=(0, 2)),
]


@pytest.mark.parametrize("config", SETTINGS, ids=lambda config: config.method)
def test_the_file_of_a_run_gives_its_configuration_back(config, empty_directory):
    resolved = configs.resolve(config)
    (empty_directory / "run.toml").write_text(configs.written(resolved))
    _, read = words.parse([config.method, "--config", "run.toml"])
    assert configs.resolve(read) == resolved  # its directory too
    configs.check_used(read)
    _, changed = words.parse([config.method, "--seed", "5", "--config=run.toml", "--batch-size", "32"])
    assert (changed.seed, changed.batch_size, changed.epochs) == (5, 32, resolved.epochs)


def test_what_follows_from_a_setting_follows_the_flag_beside_the_file(empty_directory):
    """The ticket is of the last round, the rewind epoch in proportion; a seed takes the place of seeds."""
    text = configs.written(configs.resolve(configs.ImpConfig(rounds=2, epochs=15, seeds=(0, 1))))
    (empty_directory / "run.toml").write_text(text)
    read = configs.resolve(words.parse(["imp", "--config", "run.toml", "--rounds", "4", "--epochs", "45"])[1])
    assert (read.final_rounds, read.rewind_epoch, read.seeds) == ((3,), 3, (0, 1))
    one = words.parse(["imp", "--config", "run.toml", "--seed", "5", "--rounds", "1"])[1]
    assert (one.seed, one.seeds, configs.resolve(one).final_rounds) == (5, (), ())
    configs.check_used(one)


def test_the_file_of_a_retrained_ticket_gives_its_configuration_back(empty_directory):
    """Its defaults are the ticket's: what differs from these is written, though it is the class's default."""
    zoo = Path(__file__).parent.parent / "zoo" / "digits_vgg5_imp_0.958_seed0" / "ticket.safetensors"
    given = configs.resolve(words.parse(["train", str(zoo), "--redraw", "--rewind-epoch", "0"])[1])
    (empty_directory / "run.toml").write_text(configs.written(given))
    read = configs.resolve(words.parse(["train", str(zoo), "--config", "run.toml"])[1])
    assert (given.rewind_epoch, read) == (0, given)


def test_the_file_of_a_run_is_good_from_anywhere(empty_directory):
    """Files that are here are named from the root; the name of a dataset is no folder of that name."""
    for name in ("t_1.safetensors", "u.safetensors"):
        (empty_directory / name).touch()
    for name in ("data", "digits"):
        (empty_directory / name).mkdir()
    here = str(empty_directory)
    several = configs.StabilityConfig(
        tickets=("t_{seed}.safetensors", "u.safetensors", "gone.safetensors"), seeds=(0, 1), data_dir="data"
    )
    read = tomllib.loads(configs.written(configs.resolve(several)))
    assert read["dataset"] == "digits"
    assert read["tickets"] == [f"{here}/t_{{seed}}.safetensors", f"{here}/u.safetensors", "gone.safetensors"]
    assert read["data_dir"] == f"{here}/data"
    alike = configs.written(configs.resolve(configs.OneShotConfig(like="u.safetensors")))
    assert tomllib.loads(alike)["like"] == f"{here}/u.safetensors"


def test_a_file_may_be_written_as_flags_are(empty_directory):
    text = 'dataset = "CIFAR10"\nnum-timesteps = 3\nBatch_Size = 64\nseeds = "0-2"\ncontrols = ["Random"]\n'
    text += 'dtype = "bf16"\nlearning-rate = 1\naugment = "none"\nwidth = 0.5\nworkdir = "here"\n'
    (empty_directory / "run.toml").write_text(text)
    config = words.parse(["imp", "--config", "run.toml", "--width", "0.25"])[1]
    expected = configs.ImpConfig(
        dataset="cifar10",
        num_timesteps=3,
        batch_size=64,
        seeds=(0, 1, 2),
        width=0.25,
        controls=("random",),
        dtype="bfloat16",
        learning_rate=1.0,
        augment=False,
        workdir="here",
    )
    assert config == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epoch = 3", "run.toml: key epoch: no such setting; nearest: epochs"),
        ("lr = 0.1", "nearest: learning_rate"),
        ("frobnicate = 1", "run.toml: key frobnicate: no such setting"),
        ("method = 'eb'", "run.toml: key method: no such setting"),
        ("epochs = 'many'", "run.toml: epochs many: allowed: a whole number"),
        ("epochs = 2.5", "run.toml: epochs 2.5: allowed: a whole number"),
        ("schedule = 'cosin'", "run.toml: schedule cosin: allowed: cosine, step; nearest: cosine"),
        ("controls = ['ramdom']", "run.toml: controls ramdom: allowed: random, redrawn, dense; nearest"),
        ("command = 'eb'", "run.toml: command eb: allowed: imp, or run it by snnlth eb"),
        ("epochs = ", "run.toml: no TOML"),
        ("epochs = 2\nepochs = 3", "run.toml: no TOML"),
        ("batch-size = 2\nbatch_size = 3", "run.toml: key batch_size: allowed: once"),
        ("[training]\nepochs = 3", "run.toml: key training: no such setting"),
        ("epochs = 0", "--epochs 0: allowed: 1 or more"),
        ("seeds = '4-1'", "run.toml: seeds: in 4-1 the first comes after the last"),
    ],
)
def test_a_file_that_means_nothing_is_refused(text, expected, empty_directory, capsys):
    (empty_directory / "run.toml").write_text(text)
    assert expected in refused(capsys, "imp", "--config", "run.toml")
    assert [path.name for path in empty_directory.iterdir()] == ["run.toml"]


def test_only_searches_take_a_file(capsys):
    assert "Unrecognized options: --config" in refused(capsys, "analyse", "x", "--config", "a")
    assert "a.toml: no such configuration file" in refused(capsys, "imp", "--config", "a.toml")
    assert refused(capsys, "imp", "--config") == "--config: needs one file"
    assert refused(capsys, "imp", "--config", "a", "--config", "b") == "--config: is given twice"
    assert "nearest: --config" in refused(capsys, "imp", "--confg", "a")


def test_a_run_has_its_file_and_leaves_those_of_others(empty_directory):
    resolved = configs.resolve(configs.ImpConfig(width=0.25, workdir="run"))
    paths = directory.paths("run")
    begun(resolved)
    directory.write_settings(paths, resolved)
    assert paths.settings.read_text() == configs.written(resolved)
    own = directory.paths("own")
    own.settings.parent.mkdir()
    own.settings.write_text("epochs = 3")
    begun(dataclasses.replace(resolved, workdir="own"))
    directory.write_settings(own, resolved)
    assert own.settings.read_text() == "epochs = 3"


# ---------------------------------------------------------------- said less, said more


SMALL = (
    "--width 0.1 --train-examples 64 --test-examples 60 --num-timesteps 2 --epochs 1 --rounds 2 --devices 1"
)


def test_quiet_prints_nothing_and_verbose_the_settings(capsys, empty_directory):
    command = ["imp", *SMALL.split(), "--batch-size", "32"]
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    (run,) = (empty_directory / "runs").iterdir()
    assert (run / "result.json").exists()
    assert main([*command, "--verbose"]) == 0
    out, err = capsys.readouterr()
    assert "momentum = 0.9" in out
    assert "this search is finished" in out
    assert err == ""
    assert (run / "config.toml").read_text().rstrip() in out
    # and its file is the same run
    assert main(["imp", "--config", str(run / "config.toml"), "--devices", "1"]) == 0
    assert f"runs/{run.name}: this search is finished" in capsys.readouterr().out
    # which a report takes beside what is none
    (empty_directory / "runs" / "notes.txt").write_text("mine")
    (empty_directory / "runs" / "empty").mkdir()
    assert main(["report", *sorted(map(str, (empty_directory / "runs").iterdir()))]) == 0
    out = capsys.readouterr().out
    assert "runs/notes.txt: passed over, no directory" in out
    assert "runs/empty: passed over, no search in it or below" in out


def test_verbose_shows_where_an_error_is_from(capsys):
    assert main(["imp", "--verbose", "--epochs", "0"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("snnlth: error: --epochs 0: allowed: 1 or more\n")
    assert refused(capsys, "imp", "--verbose", "--quiet") == "--quiet: allowed: without --verbose"


def test_like_is_random(capsys):
    assert "a: no such ticket file" in refused(capsys, "one-shot", "--like", "a")
    assert "--criterion snip: allowed: random" in refused(
        capsys, "one-shot", "--like", "a", "--criterion", "snip"
    )
    assert configs.resolve(configs.OneShotConfig()).criterion == "snip"
    assert configs.method_name(configs.OneShotConfig(like="a")) == "one-shot random"


def test_early_time_without_a_choice_is_warned_of(capsys):
    flags = SMALL.replace("--num-timesteps 2", "--num-timesteps 3").replace("--epochs 1", "--epochs 2")
    assert main(["imp", "--early-time", "--dry-run", *flags.split()]) == 0
    out = capsys.readouterr().out
    assert "warning: with T = 3 Early-Time has one candidate" in out
    assert re.search(r"at most [0-9.]+ [kMGT]FLOP and", out)
    assert main(["imp", "--early-time", "--early-time-timesteps", "2", "--dry-run", *flags.split()]) == 0
    assert "warning" not in capsys.readouterr().out


def test_demo_ends_with_what_it_found(tmp_path, monkeypatch, capsys):
    """The search is an ordinary one: the same command shows its result again."""
    whole = demo.config

    def short(command):
        return dataclasses.replace(whole(command), epochs=1, rounds=2, train_examples=64, width=0.25)

    monkeypatch.setattr(demo, "config", short)
    for _ in range(2):
        assert cli.main(["demo", "--workdir", str(tmp_path / "run")]) == 0
        found, look = capsys.readouterr().out.splitlines()[-2:]
        assert found.startswith("25.0 % of the weights are gone. The ticket reaches ")
        assert "a random mask of the same layer-wise counts" in found
        assert look == f"Look into it: snnlth ticket inspect {tmp_path}/run/tickets/round_01.safetensors"


def test_a_refused_value_says_what_would_do(empty_directory, capsys):
    """Names of one's own, a flag without a value, several numbers, a file in place of a directory."""
    (empty_directory / "file").write_text("mine")
    zoo = next((Path(__file__).parent.parent / "zoo").glob("*/ticket.safetensors"))
    for words_, expected in (
        (["imp", "--arch", "my_net.py"], "MODULE:FUNCTION of your own"),
        (["imp", "--workdir", "file"], "file: is no directory; allowed: one, or a new name"),
        (["data", "prepare", "shapes.npz"], "tiny_imagenet, tfds:NAME"),
        (
            ["ticket", "import", "file", "--output", "x", "--image-shape", "8x8x1"],
            "'8x8x1' is no whole number: several are written 8,8,1",
        ),
        (["imp", "--config", "run.toml", "--final-rounds", "1"], "allowed: none, with --rounds 1"),
        (["train", str(zoo), "--shuffle", "--redraw"], "--shuffle: allowed: without --redraw"),
        (["eval", str(zoo.with_name("network.safetensors")), "--arch", "json:dumps"], "allowed: vgg5"),
    ):
        (empty_directory / "run.toml").write_text("rounds = 1")
        assert expected in refused(capsys, *words_)
    assert (empty_directory / "file").read_text() == "mine"
