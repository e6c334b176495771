"""One notebook as one pipeline step: checked parameters in, an executed copy out, nothing half-done left.

    python -m cxrtrek_lib.run notebooks/05_predict.ipynb --set mode=gold

The notebook's cell tagged `parameters` declares, as plain literals, the names it reads. Each is either a
group of params.yaml, and is given that group, or a setting of this step, and must then come with --set: a
name that is neither is an error, so that no typo falls back to a default (the literals in the cell serve a
reader in JupyterLab). The copy goes to reports/notebooks/ once every cell has succeeded; a failed run leaves
NAME.failed.ipynb.
Exit status: 0 done, 1 failed (one line on stderr), 2 wrong usage, 130 interrupted.
"""

import argparse
import ast
import difflib
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cxrtrek_lib import params, paths

# tqdm.auto would draw widgets, which a terminal never sees and an executed copy cannot replay.
_TEXT_BARS = (
    "import tqdm.auto, tqdm.std; tqdm.auto.tqdm = tqdm.std.tqdm; tqdm.auto.trange = tqdm.std.trange; del tqdm"
)

# A log (no terminal) gets a line of a progress bar at most this often.
LOG_SECONDS = 10
# A cell that has written nothing for so long is said to be still running: not all that is slow can count.
SILENT_SECONDS = 5
CLEAR = "\r\x1b[K"  # to the beginning of a terminal's line, which is emptied


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Name -> literal of everything that the notebook's `parameters` cell declares, in its order.

    Raises FileNotFoundError when there is no such notebook, ValueError when it is no notebook, has no single
    cell tagged `parameters`, or has anything but `name = literal` lines there.
    """
    if not notebook.is_file():
        raise FileNotFoundError(f"{notebook}: no such notebook; run from the repository root, see notebooks/")
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{notebook}: not a notebook (version 4 JSON): {error}") from None
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook}: needs exactly one cell tagged `parameters`, has {len(tagged)}")
    try:
        statements = ast.parse("".join(tagged[0]["source"])).body
    except SyntaxError as error:
        raise ValueError(f"{notebook}: parameters cell, line {error.lineno}: {error.msg}") from None
    declared: dict[str, Any] = {}
    for statement in statements:
        try:
            (target,) = statement.targets
            declared[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, TypeError, ValueError):
            line = ast.unparse(statement).splitlines()[0]
            raise ValueError(
                f"{notebook}: parameters cell, line {statement.lineno}: `{line}` is not `name = literal`"
            ) from None
    return declared


def step_parameters(
    notebook: Path, declared: dict[str, Any], groups: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """What is injected: for each declared name its group of params.yaml, or its --set value.

    declared  as declared_parameters gives them
    groups    params_schema.Params.groups()
    settings  --set NAME=VALUE, already parsed
    Raises ValueError on a setting that is a group, is not declared, or is of another type than the declared
    literal (None takes any type), and on a declared name that is neither group nor setting.
    """
    for name in settings:
        if name in groups:
            raise ValueError(f"--set {name}: is a group of params.yaml; change it there, where DVC sees it")
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it declares {', '.join(declared) or 'nothing'}"
            raise ValueError(f"--set {name}: {notebook} declares no such parameter; {hint}")
    injected = {}
    for name, default in declared.items():
        if name in groups:
            injected[name] = groups[name]
        elif name not in settings:
            close = difflib.get_close_matches(name, groups, n=1)
            hint = f"did you mean the group {close[0]}?" if close else f"groups are {', '.join(groups)}"
            raise ValueError(
                f"{notebook}: declares {name}, no group of params.yaml and not given with --set; {hint}"
            )
        elif default is not None and type(settings[name]) is not type(default):
            raise ValueError(
                f"--set {name}={settings[name]!r}: must be of type {type(default).__name__}, as in {notebook}"
            )
        else:
            injected[name] = settings[name]
    return injected


def run_notebook(notebook: Path, parameters: dict[str, Any], copy: Path) -> None:
    """Execute a notebook from the repository root with the current interpreter; write the executed copy.

    While it runs the copy is called NAME.running.ipynb; it is moved to `copy` only when every cell succeeded.
    Raises RuntimeError (one line: notebook, cell, error) when a cell fails or the kernel dies, and moves what
    there is to NAME.failed.ipynb; KeyboardInterrupt on SIGINT and SIGTERM, with the kernel and its children
    killed and no copy left; OSError when the folder of `copy` cannot be written.
    """
    # Two seconds to import: a typo in a parameter should not take that long to hear of.
    from jupyter_core.utils import run_sync
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    running, failed = copy.with_suffix(".running.ipynb"), copy.with_suffix(".failed.ipynb")
    try:  # now, not after an hour of training
        copy.parent.mkdir(parents=True, exist_ok=True)
        running.write_text("", encoding="utf-8")
        failed.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"{copy.parent}: cannot write here ({error.strerror}); make the folder writable"
        ) from None
    cell_label = _cell_labels(notebook, extra=1 if parameters else 0)
    terminal = _terminal()
    where, interrupted = "start of the kernel", False

    def on_cell_execute(cell, cell_index):
        nonlocal where
        where = cell_label(cell)
        terminal.write("\n" if not sys.stdout.isatty() else "")
        if "parameters" not in " ".join(cell.metadata.get("tags", [])):
            print(f"[{copy.stem}] {where}", flush=True)

    with tempfile.TemporaryDirectory(prefix="cxrtrek-") as scratch:
        kernel = _kernel_manager(Path(scratch))

        def on_signal(signum, frame):
            nonlocal interrupted
            interrupted = True
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_IGN)  # an impatient second Ctrl-C must not stop the clean-up
            if kernel.has_kernel:
                os.killpg(kernel.provisioner.process.pid, signal.SIGKILL)  # the kernel leads its own group
            raise KeyboardInterrupt

        previous = {each: signal.signal(each, on_signal) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            with _watched(terminal, copy.stem, lambda: where):
                _execute(notebook, running, parameters, kernel, on_cell_execute, terminal)
        except BaseException as error:
            if interrupted:
                running.unlink(missing_ok=True)
                raise KeyboardInterrupt from None
            os.replace(running, failed)
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, PapermillExecutionError):
                reason = f"{error.ename}: {error.evalue}"
            elif isinstance(error, DeadKernelError):
                reason = "the kernel died (out of memory?)"
            raise RuntimeError(
                f"{notebook}: {where} failed: {_last_line(reason)} (traceback: {_short(failed)})"
            ) from error
        finally:
            # papermill leaves a kernel that it was given. All that it had to say is here: asked to leave, it
            # would take 1.6 s to clear PyTorch away.
            run_sync(kernel.shutdown_kernel)(now=True)
            for each, handler in previous.items():
                signal.signal(each, handler)
            terminal.write("\n" if not sys.stdout.isatty() else "")
    os.replace(running, copy)


def _execute(notebook: Path, output: Path, parameters, kernel, on_cell_execute: Callable, terminal) -> None:
    """papermill, told everything that it would otherwise guess from the notebook or the machine."""
    import papermill
    from nbclient import NotebookClient

    # What a widget shows becomes an output of its cell, for the copy. nbclient would answer the widget, and a
    # reply of the kernel's that comes just then is lost: it waits for ever.
    NotebookClient.on_comm_open_jupyter_widget = lambda client, message: None
    for name in ("papermill", "traitlets"):  # what they warn of is checked or reported here, in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    papermill.execute_notebook(
        notebook,
        output,
        parameters=parameters,
        kernel_name="python3",
        language="python",
        cwd=paths.ROOT,
        progress_bar=False,
        stdout_file=terminal,
        stderr_file=terminal,
        km=kernel,
        on_cell_execute=on_cell_execute,
        coalesce_streams=True,  # keep the last state of a progress bar, not its thousand
    )


def _kernel_manager(scratch: Path):
    """A kernel manager whose only kernel is this interpreter, talking through sockets in `scratch`.

    The installed `python3` kernelspec may belong to another environment, so none is looked up.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    spec = scratch / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    env = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(paths.ROOT), os.environ.get("PYTHONPATH")])),
        "IPYTHONDIR": str(scratch / "ipython"),  # no start-up file of the user's
        "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "false"),
        # How often a thread of OpenMP looks for work before it sleeps. By default so long that decoding took
        # 53 s instead of 6 s as soon as a core was shared; without looking, pretraining the encoder took 1.5
        # times as long on two idle cores.
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
    }
    if sys.stdout.isatty():  # some terminals (a container's) say 0 columns and rows: bars would have no room
        columns, rows = shutil.get_terminal_size()
        env |= {"TQDM_NCOLS": str(columns), "TQDM_NROWS": str(rows)}
    kernel_json = {
        "argv": [*argv, f"--IPKernelApp.exec_lines={_TEXT_BARS}"],
        "env": env,
        "display_name": "this interpreter",
        "language": "python",
    }
    (spec / "kernel.json").write_text(json.dumps(kernel_json), encoding="utf-8")
    return AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(spec.parent)], ensure_native_kernel=False),
        connection_file=str(scratch / "kernel.json"),
        transport="ipc",
    )


def _cell_labels(notebook: Path, extra: int) -> Callable[[Any], str]:
    """A function from a code cell to "k/n heading · its first line", counting its calls as `In [k]` does."""
    headings, heading, total = {}, "", extra
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            found = re.findall(r"^#+ +(.+)$", source, flags=re.MULTILINE)
            heading = found[-1].strip() if found else heading
        elif cell["cell_type"] == "code" and source.strip():
            headings[source] = heading
            total += 1
    calls = []

    def label(cell) -> str:
        calls.append(cell)
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith("#")]
        first = f"`{lines[0][:70]}`" if lines else ""
        return " · ".join(filter(None, [f"cell {len(calls)}/{total}", headings.get(cell.source), first]))

    return label


def _terminal():
    """Where kernel output goes: to a terminal as it comes; to a log in lines, few of a progress bar.

    write(text)   what the kernel writes
    remark(text)  about a silent cell; on a terminal the next output takes its place, in a log it is a line
                  that ends with the state of a bar that has not moved since
    last          when either was called, in seconds of time.monotonic
    """
    live = sys.stdout.isatty()
    rest, last_state, remarked = "", time.monotonic(), False

    def write(text: str) -> None:
        nonlocal rest, last_state, remarked
        found.last = time.monotonic()
        if live:
            sys.stdout.write(f"{CLEAR if remarked else ''}{text}")
            rest, remarked = re.split(r"[\r\n]", rest + text)[-1], False
            return
        *ended, rest = re.split(r"(?<=[\r\n])", rest + text)
        for line in ended:
            now = time.monotonic()
            passing = line.endswith("\r")  # a state of a bar that the next one overwrites
            if line.strip() and not (passing and now - last_state < LOG_SECONDS):
                print(line.rstrip())
                last_state = now if passing else last_state

    def remark(text: str) -> None:
        nonlocal remarked
        if not live:
            found.last = time.monotonic()
            print(f"{text} {rest.strip()}".rstrip(), flush=True)
        elif not rest.strip():  # a bar that stands is left standing
            remarked = True
            sys.stdout.write(f"{CLEAR}{text}")
            sys.stdout.flush()

    found = SimpleNamespace(write=write, flush=sys.stdout.flush, remark=remark, last=time.monotonic())
    return found


@contextmanager
def _watched(terminal, name: str, where: Callable[[], str]) -> Iterator[None]:
    """While this runs, say of a cell (`where` it is) that writes nothing that it still runs, and how long."""
    ended = threading.Event()

    def watch() -> None:
        cell, since = where(), time.monotonic()
        while not ended.wait(1):
            now = time.monotonic()
            if where() != cell:
                cell, since = where(), now
            elif now - terminal.last >= SILENT_SECONDS:
                terminal.remark(f"[{name}] still runs, {now - since:.0f} s")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _short(path: Path) -> str:
    return str(path.relative_to(paths.ROOT) if path.is_relative_to(paths.ROOT) else path)


def _copy_path(notebook: Path, settings: dict[str, Any]) -> Path:
    """reports/notebooks/05_predict.gold.ipynb for notebooks/05_predict.ipynb run with --set mode=gold."""
    values = [re.sub(r"[^\w-]+", "-", str(value)) for value in settings.values()]
    return paths.EXECUTED_NOTEBOOKS / ".".join([notebook.stem, *values, "ipynb"])


def main(argv: list[str] | None = None) -> int:
    """The command line of the module docstring; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cxrtrek_lib.run", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of this step"
    )
    parser.add_argument(
        "--params", type=Path, default=paths.PARAMS, help="parameter file (default: params.yaml)"
    )
    args = parser.parse_args(argv)
    start = time.monotonic()
    try:
        settings = {}
        for text in args.set:
            name, equals, value = text.partition("=")
            if not equals or name in settings:
                raise ValueError(f"--set {text}: write NAME=VALUE, each name once")
            try:
                settings[name] = params.parse_value(value)
            except ValueError as error:
                raise ValueError(f"--set {name}={error}") from None
        groups = params.load(args.params).groups()
        injected = step_parameters(args.notebook, declared_parameters(args.notebook), groups, settings)
        copy = _copy_path(args.notebook, settings)
        run_notebook(args.notebook, injected, copy)
    except KeyboardInterrupt:
        print(f"{args.notebook}: interrupted before its end; run it again", file=sys.stderr)
        return 130
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"[{copy.stem}] done in {time.monotonic() - start:.0f} s: {_short(copy)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
