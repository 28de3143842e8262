"""A connection to Ray, made alike by search, training and tuning: to a private Ray of this process, or to a cluster."""

import logging
import os
import signal

import ray

from zennas.ray_address import check_address
from zennas.records import UserError, first_line

STARTS = 3  # of a private Ray, whose processes may be too slow for each other on a machine that is busy


def connect(address, *, say, log_to_driver=False, **private):
    """Connect this process to the Ray cluster at `address`; None: to a private one on loopback, started with options
    `private`.

    say(text): told where a private one is started again. UserError where Ray cannot be reached.
    """
    # Ray warns about metrics exporters and accelerators that a private one does not have; errors still come through.
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    check_address(address)
    if ray.is_initialized():
        raise RuntimeError("this process is connected to a Ray already")
    if address is None:
        options = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"} | private
        where, tries = "a local Ray", STARTS
    else:
        options, where, tries = {"address": address}, f"the Ray cluster at '{address}'", 1
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for attempt in range(1, tries + 1):
        try:
            ray.init(log_to_driver=log_to_driver, configure_logging=False, **options)
            break
        except Exception as error:  # noqa: BLE001 - Ray raises bare Exceptions, too, where its processes do not come up
            ray.shutdown()
            if attempt == tries:
                raise UserError(f"{where} could not be reached: {first_line(error)}") from None
            say(f"{where} did not come up ({first_line(error)}): started again")
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray puts its own in place, which dumps a stack and exits
