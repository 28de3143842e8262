"""How every command of zennas behaves: one clear line for a user's mistake, documented exit codes, no traceback."""

import signal
import sys

import typer

from zennas.records import UserError

WRONG_INPUT, INTERRUPTED = 2, 130


def command(function, *, help):
    """A main(arguments=None) that runs a typer function: UserError ends it with exit code 2, Ctrl-C and SIGTERM with 130."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(help=help)(function)

    def main(arguments=None, prog_name=None):
        def interrupt(number, frame):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, interrupt)
        try:
            click_command = typer.main.get_command(app)
            code = click_command.main(args=arguments, prog_name=prog_name, standalone_mode=False)
            sys.exit(code or 0)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(WRONG_INPUT)
        except (KeyboardInterrupt, typer.Abort):
            sys.exit(INTERRUPTED)
        except Exception as error:
            if hasattr(error, "format_message"):  # a usage error of the command line, whatever library raised it
                print(f"error: {error.format_message()}; see --help", file=sys.stderr)
                sys.exit(WRONG_INPUT)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)

    return main
