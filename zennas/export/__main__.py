"""The command `export`: python -m zennas.export --model FILE, the same as: zennas export --model FILE."""

from zennas import commands

main = commands.command("zennas.export")

if __name__ == "__main__":
    main()
