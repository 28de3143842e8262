"""How every command of zennas behaves: one clear line for a user's mistake, documented exit codes, no traceback."""

import os
import re
import signal
import socket
import sys

import typer

from zennas.records import UserError

WRONG_INPUT, INTERRUPTED = 2, 130
ANSWER_S = 10.0  # that a cluster's head may take to answer


def keep_ray_on_loopback():
    """Bind the Ray of this process alone to 127.0.0.1; to be called before ray is imported, and not for a cluster.

    On Linux Ray takes a node address of 127.0.0.1 for a slip and listens on all interfaces. The variable is its own,
    and says that there is no cluster.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def check_address(address):
    """UserError for what is no address of a cluster ('auto', HOST:PORT), and where no Ray answers, which Ray asks for
    minutes.

    None, no cluster, passes, and 'local'.
    """
    if address in (None, "auto", "local"):
        return
    found = re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:]+\]):(\d+)", address)
    right = (
        "the HOST:PORT that ray start --head printed (its port is 6379 by default), or 'auto' on a node of the cluster"
    )
    if found is None:
        raise UserError(f"--address: given '{address}', allowed: {right}")
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--address {address}: nobody answers there ({why}); give {right}") from None
    if os.environ.get("RAY_USE_TLS") == "1":
        return
    import grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_S)
        except grpc.FutureTimeoutError:
            raise UserError(
                f"--address {address}: something answers there, but no Ray (8265 is its dashboard's port); give {right}"
            ) from None


def command(function, *, help):
    """A main(arguments=None) that runs a typer function: UserError ends it with exit code 2, Ctrl-C and SIGTERM with
    130.
    """
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
