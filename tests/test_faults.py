"""Faults on purpose: nothing is lost, nothing is silently wrong, and whoever is told is told in one line.

`make test` tries each fault a few times, `make test-faults` as often as README says; both print how often.
"""

import contextlib
import errno
import gzip
import hashlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import nbformat
import nbformat.v4 as nbf
import psutil
import pypdf
import pytest
from reference import until
from test_report import ROOT, environment, make_project, project
from test_store import CONFIG, folders, script, seeded
from torchvision.datasets import FashionMNIST

from fmnist import cli, data, store, study
from fmnist.config import RunConfig, UserError, located, read_yaml
from fmnist.engine import workers
from fmnist.lab.browse import Browse
from fmnist.paper.exporters import HomeworkHTML, HomeworkPDF
from fmnist.study import Study


def often(few, many):
    """A test's arguments: a few in `make test`, many in `make test-faults`."""
    return [few, pytest.param(many, marks=[pytest.mark.faults, pytest.mark.timeout(3_600)])]


@pytest.fixture
def survived(record_property):
    """survived("kill", 30) has the summary say so; conftest prints it."""
    return lambda fault, times: record_property("fault", f"{fault}: {times} of {times} survived")


def damage(path: Path, way: str, at: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if way == "flip":
        content[at.randrange(len(content))] ^= 1 << at.randrange(8)
    elif way == "zero":
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    else:
        del content[at.randrange(len(content)) :]
    path.write_bytes(content)


@pytest.mark.parametrize("times", often(25, 200))
def test_no_corruption_is_used_as_it_is(times, runs, result, monkeypatch, capsys, survived):
    """Whatever byte is hit: the run is as it was, or it is named, set aside and trained anew."""
    monkeypatch.setattr(workers, "train", lambda configs, finished, *_: finished(result))
    at, caught = random.Random(0), 0
    for i in range(times):
        run = store.save(result)
        before = {name: run.content(name) for name in store.FILES}
        how = {0: "zero", 1: "cut"}.get(i % 10, "flip")
        damage(run.folder / at.choice(["run.json", *store.FILES]), how, at)
        (again,) = study.train([CONFIG], "cpu")
        said = capsys.readouterr().err
        aside = list(runs.glob(f".{run.run_id}.damaged.*"))
        assert len(aside) == said.count(f"run {run.run_id}: ") == said.count("set aside as")
        caught += len(aside)
        store.clean(everything=True)
        assert {name: again.content(name) for name in store.FILES} == before and again.metrics == run.metrics
    assert caught >= 0.8 * times  # the rest hit a blank of run.json
    survived("corruption", times)


PARTS = {"history.parquet": "history", "predictions.npy": "predictions", "weights.safetensors": "model"}


@pytest.mark.parametrize("name", PARTS)
def test_damage_that_is_met_in_reading_is_said_in_one_line(name, runs, result, capsys):
    run = store.save(result)
    (run.folder / name).write_bytes((run.folder / name).read_bytes()[:90])
    with pytest.raises(UserError, match=f"run {run.run_id}: {name} is not .*; train it anew"):
        getattr(run, PARTS[name])()
    assert folders(runs) == [] and store.load(run.run_id) is None


def sealed(record: dict) -> str:
    return json.dumps(record | {"checksum": store._seal(record)})


def test_all_files_are_compared_and_runs_of_other_versions_kept(runs, result, capsys):
    run, other = store.save(result), store.save(seeded(result, 1))
    newer = other.record | {"config": other.record["config"] | {"label_smoothing": 0.1}}  # by another version
    (other.folder / "run.json").write_text(sealed(newer))
    assert cli.main(["store", "check"]) == 0 and store.load(run.run_id, whole=True).record == run.record
    assert store.load(other.run_id) is None and len(folders(runs)) == 2 and len(store.results()) == 1
    assert (store.check(), capsys.readouterr().err) == ((1, 0), "")
    damage(run.folder / "best.safetensors", "zero", random.Random(0))
    assert cli.main(["store", "check"]) == 1 and "best.safetensors is not as it was stored" in capsys.readouterr().err
    assert cli.main(["store", "gc"]) == 0 and "removed 1 leftovers" in capsys.readouterr().out


@pytest.mark.parametrize("count", often(40, 400))
def test_the_index_says_what_the_folders_say(count, runs, result, monkeypatch, survived):
    for seed in range(count):
        store.save(seeded(result, seed))
    (path,) = [store.results(), *runs.glob(".index-*")][1:]
    before, content, at = store.results(), path.read_bytes(), random.Random(0)
    assert before["run_id"].tolist() == [run.run_id for run in store.all_runs()]
    monkeypatch.setattr(store, "load", lambda *_: pytest.fail("a run was read"))
    assert store.results().equals(before)
    monkeypatch.undo()
    monkeypatch.setenv("FMNIST_RUNS", str(runs))
    for i in range(count // 4):
        path.write_bytes(content)
        damage(path, "flip" if i else "cut", at)
        assert store.results().equals(before)
    store.remove(before["run_id"][0])
    store.save(seeded(result, count))
    assert len(store.results()) == count and before["run_id"][0] not in store.results()["run_id"].tolist()
    survived("damaged index", count // 4)


def test_what_the_dead_left_goes_and_the_living_keep(runs, result, monkeypatch, survived):
    run, ours = store.save(result), store.owner().rpartition(".")[0]
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f"{ours}.{dead.pid}.01234567", f"{ours}.{os.getpid()}.01234567", "elsewhere.1.01234567"):
        (runs / f".{run.run_id}.{name}").mkdir()
    (runs / ".bashrc.bak").write_text("mine")
    store.check_writable()
    assert {path.name.split(".")[2] for path in runs.glob(f".{run.run_id}.*")} == {ours, "elsewhere"}
    monkeypatch.setattr(time, "time", lambda: 0.0)  # a clock set back by decades
    (again,) = study.train([CONFIG], "cpu")
    assert again.run_id == run.run_id and store.clean() == 1
    assert store.clean(everything=True) == 0 and (runs / ".bashrc.bak").exists()
    survived("a clock set back", 1)


@pytest.mark.parametrize("count", often(2, 4))
def test_builds_at_once_train_no_run_twice(count, runs, survived):
    code = "say, train = lambda c: print('training', len(c), file=sys.stderr), workers.train\n"
    code += "workers.train = lambda c, *a: (say(c), train(c, *a))\n"
    together = [script(f"{code}study.train(configs(epochs=20), 'cpu')", runs) for _ in range(count)]
    said = "".join(process.communicate(timeout=300)[1] for process in together)
    assert [process.returncode for process in together] == [0] * count, said
    assert sum(map(int, re.findall("training (\\d+)\n", said))) == 3
    left = re.sub(r"training \d+\n|waiting for three runs of process \d+ on \S+\n", "", said)
    assert left == "" and len(store.all_runs()) == len(list(runs.iterdir())) == 3, "nothing is left lying about"
    survived("builds at once", count)


STUDY = """import fmnist as fm
found = fm.Study(base, variants, grid, seeds).run(device).runs()
fm.record(mean=repr(found.test_accuracy.mean()))"""
BASE = {"hidden_sizes": [8], "epochs": 6, "batch_size": 20}  # enough for workers
STAGES = [None, "to train on cpu", "executing 2 notebooks", "2 of 2"]  # a line after which a stage begins
WAYS = ["kill of a whole report build", "kill of its parent alone", "Ctrl-C in a report build"]


def build(folder: Path, *before: str, name: str = "mine") -> subprocess.Popen:
    """A report in a process group of its own; all that it starts has `folder` in its environment."""
    command, own = ["report", name, "--device", "cpu"], environment(folder) | {"FMNIST_TEST": str(folder)}
    options = {"preexec_fn": partial(signal.signal, signal.SIGINT, signal.default_int_handler), "text": True}
    command = [*before, sys.executable, "-m", "fmnist.cli", *command]
    return subprocess.Popen(command, cwd=folder, env=own, stderr=-1, start_new_session=True, **options)


def family(folder: Path) -> list[psutil.Process]:
    """Every process of a build in `folder`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found += [process] if process.environ().get("FMNIST_TEST") == str(folder) else []
    return found


def papers(folder: Path) -> list:
    """Each whole or absent: where they are, what was recorded."""
    ends = {"html": b"</html>", "pdf": b"%%EOF", "json": b"}"}
    contents = {kind: path.read_bytes().strip() for kind in ends for path in folder.glob(f"report/mine.{kind}")}
    assert all(content.endswith(ends[kind]) for kind, content in contents.items())
    return [*contents, json.loads(contents["json"])["values"]["one"]["mean"]] if "json" in contents else [*contents]


@pytest.fixture(scope="module")
def made(tmp_path_factory, data_set):
    """A project whose report trains and shows one study, its papers, and the seconds of each stage of making them."""
    folder = project(tmp_path_factory.mktemp("made") / "project", {"one": [STUDY], "two": ["1 + 1"]}, "{one.mean}")
    notebook = nbformat.read(path := folder / "notebooks" / "one.ipynb", as_version=4)
    notebook.metadata["fmnist"] = {"kind": "study"}
    notebook.cells[1].source = "base = {}\nvariants = {}\ngrid = {}\nseeds = [0]\nbaseline = ''\ndevice = 'auto'"
    nbformat.write(notebook, path)
    (path := folder / "params" / "mine" / "one.yaml").write_text(json.dumps({"base": BASE, "seeds": [0, 1, 2, 3]}))
    process, moments = build(folder), [time.monotonic()]
    for line in process.stderr:
        moments += [time.monotonic()] * (len(moments) < 4 and STAGES[len(moments)] in line)
    assert process.wait() == 0
    moments.append(time.monotonic())
    return folder, papers(folder), [end - begin for begin, end in itertools.pairwise(moments)]


@pytest.mark.parametrize("times", often(3, 45))
def test_a_report_build_may_be_stopped_at_any_moment(times, made, monkeypatch, survived):
    """Nothing stays that runs, nothing half; the same command then gives the same numbers."""
    folder, expected, lasts = made
    monkeypatch.setenv("FMNIST_RUNS", str(folder / "runs"))
    at, hit = random.Random(times), dict.fromkeys(WAYS, 0)
    for i in range(times):
        shutil.rmtree(folder / "runs", ignore_errors=True)  # so that it trains
        process, way, stage = build(folder), WAYS[i % 3], (1 + i + i // 4) % 4
        if STAGES[stage]:
            next(line for line in process.stderr if STAGES[stage] in line)
        time.sleep(at.uniform(0, lasts[stage]))
        hit[way] += process.poll() is None
        for each in family(folder) if way == WAYS[0] else []:
            with contextlib.suppress(psutil.Error):
                each.kill()
        with contextlib.suppress(ProcessLookupError):
            process.kill() if way == WAYS[1] else os.killpg(process.pid, signal.SIGINT)
        said = process.communicate()[1]
        if way == WAYS[2] and stage:
            assert "Traceback" not in said and process.returncode == (130 if "interrupted" in said else 0), said
        until(lambda: not family(folder), 20)
        assert papers(folder) == expected and store.check()[1] == 0
    process = build(folder)
    assert process.communicate() and process.returncode == 0 and papers(folder) == expected
    assert len(store.all_runs()) == len([*(folder / "runs").iterdir()]) == 4, "the next writer has tidied up"
    for way, count in hit.items():
        survived(way, count)


@pytest.mark.parametrize("count", often(2, 4))
def test_builds_of_one_report_at_once(count, made, survived):
    folder, expected, _ = made
    shutil.rmtree(folder / "runs")
    together = [build(folder) for _ in range(count)]
    said = [process.communicate()[1] for process in together]
    assert [process.returncode for process in together] == [0] * count, said
    assert papers(folder) == expected and len([*(folder / "runs").iterdir()]) == 4, "each run once"
    survived("builds of one report at once", count)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("place", "disk"),
    [*itertools.product(["runs", "report/build"], ["ro", "size=8k"]), ("runs", "size=60k"), ("runs", "size=200k")],
)
def test_a_report_on_a_full_or_read_only_disk_ends_in_one_line(place, disk, made, survived):
    folder, mount = made[0], f'mount -t tmpfs -o {disk} none {place} && exec "$@"'
    if subprocess.run(["unshare", "-rm", "true"]).returncode:
        pytest.skip("file systems cannot be mounted here")
    shutil.rmtree(folder / place)
    (folder / place).mkdir()
    process = build(folder, "unshare", "-rm", "sh", "-c", mount, "sh")
    said = process.communicate()[1]
    assert process.returncode == 2 and "Traceback" not in said, said
    assert re.search("Read-only file system|No space left on device|No usable temporary", said.splitlines()[-1]), said
    survived(f"{place} on a disk {disk}", 1)


@pytest.mark.faults
@pytest.mark.timeout(3_600)
def test_the_largest_report_takes_less_than_3_GB(tmp_path, data_set, record_property):
    """Homework with all its runs, an epoch each; what all its processes take, shared pages counted once."""
    folder, peak = make_project(tmp_path / "project", "homework"), 0
    path = folder / "params" / "homework" / "report.yaml"
    path.write_text(re.sub("epochs: \\d+", "epochs: 1", path.read_text()))
    process = build(folder, name="homework")
    threading.Thread(target=process.stderr.read, daemon=True).start()
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            own = psutil.Process(process.pid)
            peak = max(peak, sum(each.memory_full_info().pss for each in [own, *own.children(recursive=True)]))
        time.sleep(0.5)
    assert process.returncode == 0 and peak < 3e9
    record_property("fault", f"peak memory of the largest report: {peak / 1e9:.1f} GB")


@pytest.mark.parametrize("fault", ["file", "below a file", "loop", "read-only", "full"])
def test_a_store_that_takes_nothing_is_said_before_training(fault, tmp_path, monkeypatch, survived):
    place = tmp_path / "runs"
    monkeypatch.setenv("FMNIST_RUNS", str(place / "more" if fault == "below a file" else place))
    monkeypatch.setattr(workers, "train", lambda *_: pytest.fail("training has begun"))
    if "file" in fault:
        place.write_text("mine")
    elif fault == "loop":
        place.symlink_to(tmp_path / "other")
        (tmp_path / "other").symlink_to(place)
    else:
        number = errno.EROFS if fault == "read-only" else errno.ENOSPC
        refuse = mock.Mock(side_effect=OSError(number, os.strerror(number)))
        monkeypatch.setattr(store, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=f"{place}.*: runs cannot be stored here: .*Set FMNIST_RUNS"):
        study.train([CONFIG], "cpu")
    assert store.results().empty and store.load(CONFIG.run_id) is None
    survived(f"store that is {fault}", 1)


def test_a_store_that_cannot_be_written_is_read(runs, result, monkeypatch):
    store.save(result)
    monkeypatch.setattr(store, "aside", mock.Mock(side_effect=PermissionError(errno.EROFS, "Read-only")))
    assert len(store.results()) == 1 and study.train([CONFIG], "cpu")[0].config == CONFIG


BOMB = "a0: &a0 [1, 1, 1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
LIMITS = {
    "base:\n  epochs: 1" + "0" * 30: "line 2: base: epochs: should be less than or equal to 1000000",
    "base: {hidden_sizes: [10000000]}": "line 1: base: hidden_sizes: 7,950,000,010 weights; .* at most 1,000,000,000",
    "base: {hidden_sizes: [" + "8, " * 4_000 + "]}": "line 1: base: hidden_sizes: should have at most 100 items",
    "grid: {lr: [1.0, 0.1], batch_size: [" + ", ".join(map(str, range(1, 2_500))) + "]}\nseeds: [0, 1, 2]": (
        r"line 1: grid: a study has at most 10,000 runs, not 1 variants × 4,998 points × 3 seeds"
    ),
    "a: !!int x": "line 1: not readable as YAML: .*tag",
    "a: " + "9" * 5_000: "not readable as YAML: Exceeds the limit",
    "a: " + "{a: " * 4_000: "line 1: not readable as YAML: maximum depth",
    "a: [" + "1," * 5_000_000 + "]": "10,000,005 bytes; parameters are read from files of at most 20,000",
    BOMB: "line \\d: not readable as YAML: an alias",
}


@pytest.mark.parametrize(("text", "said"), LIMITS.items(), ids=[text[:30] for text in LIMITS])
def test_what_is_beyond_all_use_is_refused_at_once(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("some.yaml").write_text(text)
    begin = time.process_time()
    with pytest.raises(UserError) as error:
        Study(**read_yaml(Path("some.yaml")), where="some.yaml")
    assert re.match(f"some.yaml(, |: ){said}", message := located(str(error.value)))
    assert time.process_time() - begin < 2 and "\n" not in message[:-1]


def test_training_of_days_is_asked_about(runs, monkeypatch):
    config = RunConfig(hidden_sizes=(2_000, 2_000), epochs=100_000)
    monkeypatch.setattr(workers, "train", lambda configs, finished, *_: pytest.fail("begun"))
    said = r"training one run would take about [\d,]+ days on cpu.*--yes, or FMNIST_YES=1"
    with pytest.raises(UserError, match=said):
        study.train([config], "cpu")
    monkeypatch.setenv("FMNIST_YES", "1")
    with pytest.raises(pytest.fail.Exception, match="begun"):
        study.train([config], "cpu")


MIRRORS = {  # what a server does with a file, and what is then said of it, if the file cannot be had
    "unreachable": (lambda body, at: None, "refused"),
    "silent": (lambda body, at: [time.sleep(3)], "timed out|closed"),
    "slow": (lambda body, at: [body[:at], time.sleep(0.1), body[at:]], ""),
    "cut off": (lambda body, at: [body[:at]], "corrupted|incomplete"),
    "damaged": (lambda body, at: [body[:at], bytes([body[at] ^ 1]), body[at + 1 :]], "corrupted"),
    "other content": (lambda body, at: [random.Random(at).randbytes(len(body))], "corrupted"),
    "an HTML page": (lambda body, at: [b"<html>please sign in</html>".ljust(len(body))], "corrupted"),
}


@pytest.mark.parametrize("times", often(len(MIRRORS), 70))
def test_a_download_is_whole_or_not_at_all(times, house, monkeypatch, survived):
    """A data set of zeros; one mirror alone is told of, beside another one it does no harm."""
    counts, files, places = {"train": 60_000, "t10k": 10_000}, {}, random.Random(0)
    for name in data.SHA256:
        count, images = counts[name.split("-")[0]], "images" in name
        head = struct.pack(">4I", 0x803, count, 28, 28) if images else struct.pack(">2I", 0x801, count)
        files[name] = head + bytes(count * (784 if images else 1))
    faults = [fault for fault, _ in MIRRORS.values()] + [lambda body, at: [body]]
    zipped = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    monkeypatch.setattr(data, "SHA256", {name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    md5 = [(name, hashlib.md5(body).hexdigest()) for name, body in zipped.items()]
    monkeypatch.setattr(FashionMNIST, "resources", md5)
    monkeypatch.setattr(data, "TIMEOUT", 2.0)

    class Mirror(BaseHTTPRequestHandler):
        log_message = mock.Mock()

        def do_GET(self):
            _, fault, name = self.path.split("/")
            body = zipped[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for part in filter(None, faults[int(fault)](body, places.randrange(len(body)))):
                self.wfile.write(part)

    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server, ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as gone:
        gone.server_close()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for i in range(times):
            ports = (gone if i % len(MIRRORS) == 0 else server).server_port, server.server_port
            bad, good = (f"http://127.0.0.1:{port}/{n}/" for port, n in zip(ports, (i % len(MIRRORS), -1), strict=True))
            monkeypatch.setattr(FashionMNIST, "mirrors", [bad])
            if said := [*MIRRORS.values()][i % len(MIRRORS)][1]:
                with pytest.raises(UserError, match=f"torchvision's mirrors: .*({said})"):
                    data.find()
                assert not [*house.glob("data/*")]
                monkeypatch.setattr(FashionMNIST, "mirrors", [bad, good])
            assert data.find()[1] == files and len([*house.glob("data/*")]) == 4
            shutil.rmtree(house / "data")
        server.shutdown()
    survived("download " + ", ".join(MIRRORS), times)


NASTY = ["10**9", "!!python/object:os.system {}", "&a", "*a", "[", "}", ": ", "\t", "- ", ".inf", "1e999", "'", "é\0"]


@pytest.mark.parametrize("times", often(60, 500))
def test_a_mutated_yaml_is_read_or_refused(times, tmp_path, monkeypatch, survived):
    monkeypatch.chdir(tmp_path)
    at, texts = random.Random(0), [path.read_text() for path in sorted((ROOT / "params").glob("*/*.yaml"))]
    texts = [text for text in texts if re.search("^(base|variants|grid):", text, re.M) and "sections:" not in text]
    refused = 0
    for _ in range(times):
        text = at.choice(texts)
        for _ in range(at.randint(1, 4)):
            a, b = sorted(at.randrange(len(text) + 1) for _ in range(2))
            text = text[:a] + at.choice([*NASTY, text[a : a + 20] * 3, ""]) + text[min(b, a + 8) :]
        Path("some.yaml").write_text(text)
        try:
            given, known = read_yaml(Path("some.yaml")).items(), ("base", "variants", "grid", "seeds")
            Study(**{key: part for key, part in given if key in known}, where="some.yaml")
        except UserError as error:
            assert str(error).startswith("some.yaml")
            refused += 1
    assert refused > times / 2
    survived("mutated YAML", times)


EVIL = '<script>alert(1)</script> `#read("/etc/passwd")` #read("/etc/passwd") <b onclick="x()">b</b> <img src=x>'
RAW = """```{=typst}
#read("/etc/passwd")
```

`#read("/etc/hostname")`{=typst} `<script>alert(2)</script>`{=html} <iframe src="file:///etc/passwd"></iframe>
[one](javascript:alert(3)) [five](a.html){onclick="z()"} ![two](file:///etc/passwd)
![three](../../secret.png) ![four](/etc/hostname.png)
"""


def test_what_would_break_out_of_a_paper_is_text_or_refused(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"SECRET")
    html_output = nbf.new_output("display_data", data={"text/html": "<table><tr><td onclick='a()'>x</td></tr></table>"})
    cells = [nbf.new_markdown_cell(f"# One {EVIL}\n\n{RAW}"), nbf.new_code_cell("1", outputs=[html_output])]
    about = {"title": EVIL, "authors": [{"name": EVIL, "affiliation": EVIL}], "abstract": RAW, "notice": EVIL}
    paper = nbf.new_notebook(cells=cells, metadata={"fmnist": about})
    place = {"metadata": {"name": "x", "path": str(tmp_path / "a" / "b")}}
    html, pdf = (form().from_notebook_node(paper, place)[0] for form in (HomeworkHTML, HomeworkPDF))
    body = html[html.index("<body") :]
    assert not re.search(r"<script>alert|<iframe|<img|\son\w+=|javascript:|U0VDUkVU", body)
    text = "".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf)).pages)
    assert '#read("/etc/passwd")' in re.sub("[“”]", '"', " ".join(text.split())) and "root:" not in text + body


def test_jupyterlab_keeps_its_token_and_listens_on_loopback():
    settings = (ROOT / "jupyter_server_config.py").read_text() + (ROOT / "Makefile").read_text()
    assert not re.search(r"token|password|allow_origin|disable_check_xsrf|[. ]ip\b|--ip", settings)


@pytest.mark.parametrize("count", often(50, 2_000))
def test_many_small_runs_in_one_process_take_no_more_memory(count, runs, survived):
    sizes = []
    for part in range(2):
        seeds = range(part * count // 2, (part + 1) * count // 2)
        study.train([CONFIG.model_copy(update={"seed": seed}) for seed in seeds], "cpu")
        sizes.append(psutil.Process().memory_info().rss)
    assert len(store.results()) == count and sizes[1] - sizes[0] < 60e6
    survived("small runs in one process", count)


@pytest.mark.faults
@pytest.mark.timeout(3_600)
def test_a_hundred_thousand_runs_are_looked_through_in_two_seconds(runs, result, record_property, capsys):
    """Seconds of a processor, after the first time."""
    run = store.save(result)
    for seed in range(1, 100_000):
        if seed % 50_000 == 1:  # a file has at most 65,000 links
            (other := run.folder.with_name(f".{seed}")) and shutil.copytree(run.folder, other)
        config = CONFIG.model_copy(update={"seed": seed, "lr": 0.1 / (1 + seed % 100)})
        (folder := runs / config.run_id).mkdir()
        for name in store.FILES:
            os.link(other / name, folder / name)
        (folder / "run.json").write_text(sealed(run.record | {"config": config.model_dump(mode="json")}))
    wanted = Study({**run.config.model_dump(exclude={"seed"}), "lr": 0.1}, seeds=range(100, 10_000, 100))
    tasks = {"index": store.results, "results": lambda: cli.main(["results"]), "look-up": wanted.run, "panel": Browse}
    spent = {}
    for name, task in tasks.items():
        begin, _ = time.process_time(), task()
        spent[name] = time.process_time() - begin
    capsys.readouterr()  # a hundred thousand lines
    assert len(store.results()) == 100_000 and max(list(spent.values())[1:]) < 2, spent
    record_property("fault", f"100,000 runs: {', '.join(f'{name} {spent[name]:.1f} s' for name in spent)}")
