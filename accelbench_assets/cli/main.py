"""``accelbench``: the command line's assembly and its one place that turns exceptions into exit codes.

Belongs here: the list of commands, the global flags, the last catch.
Does not belong here: any command. Nothing heavy may be imported here or at the top of a command's module.
"""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from accelbench_assets.cli import cells, instances, models, prices, state
from accelbench_assets.cli.cancel import cancel
from accelbench_assets.cli.compare import compare
from accelbench_assets.cli.config import config
from accelbench_assets.cli.cost import cost
from accelbench_assets.cli.demo import demo
from accelbench_assets.cli.doctor import doctor
from accelbench_assets.cli.import_ import import_results
from accelbench_assets.cli.query import query
from accelbench_assets.cli.reap import reap
from accelbench_assets.cli.recommend import recommend
from accelbench_assets.cli.run import run
from accelbench_assets.cli.runs import logs, runs, show
from accelbench_assets.cli.sql import sql
from accelbench_assets.cli.trials import trials
from accelbench_assets.cli.ui import ui
from accelbench_assets.errors import AccelBenchError

EPILOG = (
    "Exit codes: 0 done; 1 the run failed or is void (the reason is printed); 2 wrong usage; "
    "130 interrupted and cleaned up. Results go to stdout, everything else to stderr."
)

app = typer.Typer(
    name="accelbench",
    help="Measure which model, instance, engine and configuration meets a latency target at the lowest cost.",
    epilog=EPILOG,
    rich_markup_mode=None,  # plain help: it answers at once, and looks the same in a log
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: tuple[tuple[Callable[..., None], str], ...] = (
    (demo, "The whole job on this machine, in about two minutes."),
    (run, "Benchmark a model here, on EC2, or a server behind a URL."),
    (runs, "List runs, whatever became of them."),
    (show, "Everything known of one run."),
    (logs, "List or print the logs kept beside a run."),
    (cancel, "End a run that is under way."),
    (reap, "Close runs whose process died."),
    (query, "Search the catalog of results."),
    (recommend, "What to rent for a model, with the arithmetic."),
    (cost, "What a run costs anywhere, and what we have spent."),
    (compare, "Put two to four runs side by side."),
    (trials, "Pool the trials of a cell, or test one cell against another."),
    (sql, "Query the lake with DuckDB."),
    (config, "Print the effective settings."),
    (ui, "Open the Dagster UI."),
    (doctor, "Say what is missing on this machine."),
)
for command, short in COMMANDS:
    app.command(short_help=short)(command)
app.command("import", short_help="Bring in result files of other load generators.")(import_results)
app.add_typer(prices.app, name="prices", short_help="What machines cost, who says so, and since when.")
app.add_typer(models.app, name="models", short_help="What models are: list, show.")
app.add_typer(instances.app, name="instances", short_help="What instance types are: list, show.")
app.add_typer(cells.app, name="cells", short_help="List, show and sync what there is to measure.")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"accelbench {version('accelbench')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    home: Annotated[
        Path | None, typer.Option("--home", help="Folder of the default lake, engines, logs (.accelbench).")
    ] = None,
    lake: Annotated[
        str | None, typer.Option("--lake", help="Lake root: a folder, file:// or s3://bucket/prefix.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")
    ] = False,
) -> None:
    """Flags that come before the command."""
    state.set_quiet(quiet)
    state.set_debug(debug)
    for name, value in (("home", home), ("lake", lake)):
        if value is not None:
            state.STATE.set_flag(name, value)
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: runs the command and exits with 0, 1, 2 or 130; never shows a traceback unless asked
    to.
    """
    state.reset()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    code = 1
    try:
        with _terminable():
            code = _run(None if argv is None else list(argv))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away (`| head`): no error of ours. Nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: in good order, with exit code 130."""

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(argv: list[str] | None) -> int:
    try:
        # Not standalone: the exit codes and texts are ours.
        lean = _with_only(_command_of(sys.argv[1:] if argv is None else argv))
        answer = typer.main.get_command(lean).main(argv, prog_name="accelbench", standalone_mode=False)
        return answer if isinstance(answer, int) else 0
    except AccelBenchError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        if state.STATE.debug:
            traceback_to_stderr(error)
        return error.exit_code
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        print(f"error: {error.format_message()}", file=sys.stderr)
        if context is not None:
            print(f"hint: `{context.command_path} --help` explains.", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # what typer makes of a reader that went away
            raise end.__context__ from None
        raise
    except Exception as error:
        return unexpected(error)


def _command_of(words: Sequence[str]) -> str | None:
    """The command that *words* name; ``None`` where the list of all commands may be needed."""
    rest = iter(words)
    for word in rest:
        if word in ("--home", "--lake"):
            next(rest, None)
        elif word in ("-h", "--help"):
            return None
        elif not word.startswith("-"):
            return word
    return None


def _with_only(name: str | None) -> typer.Typer:
    """The command line with the command *name* alone: reading the options of the others would take a tenth of a second.
    With all of them if there is none of this name.
    """
    commands = [c for c in app.registered_commands if (c.name or _name_of(c.callback)) == name]
    groups = [group for group in app.registered_groups if group.name == name]
    if not commands and not groups:
        return app
    lean = copy.copy(app)
    lean.registered_commands, lean.registered_groups = commands, groups
    return lean


def _name_of(callback: Callable[..., object] | None) -> str | None:
    return None if callback is None else callback.__name__.replace("_", "-")


def traceback_to_stderr(error: Exception) -> None:
    """The scrubbed traceback, for ``--debug``."""
    import traceback

    from accelbench_assets.scrub import scrub

    print(scrub("".join(traceback.format_exception(error))), file=sys.stderr)


def unexpected(error: Exception) -> int:
    """One sentence, and the scrubbed traceback in a file of HOME/logs (or on stderr with ``--debug``); exit
    code 1.
    """
    import time
    import traceback

    from accelbench_assets.scrub import scrub

    text = scrub("".join(traceback.format_exception(error)))
    said = scrub(str(error).strip().split("\n")[0])[:300]
    where = ""
    with contextlib.suppress(Exception):
        folder = state.home() / "logs"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"error-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        where = f" The traceback is in {path}."
    if state.STATE.debug:
        traceback_to_stderr(error)
    print(f"error: an unexpected {type(error).__name__}: {said or 'no text'}.{where}", file=sys.stderr)
    print("hint: this is a fault of AccelBench; please report it with that file.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
