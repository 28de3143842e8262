"""The command `latency`: measure by a track's rule; build, show, compare and import tables. Also: zennas latency."""

from zennas import commands

main = commands.command("zennas.latency")

if __name__ == "__main__":
    main()
