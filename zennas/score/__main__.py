"""The command `score`: python -m zennas.score FILE, the same as: zennas score FILE."""

from zennas import commands

main = commands.command("zennas.score")

if __name__ == "__main__":
    main()
