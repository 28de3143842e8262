"""The command `run`: python -m zennas.run EXPERIMENT --data DATA, the same as: zennas run EXPERIMENT --data DATA."""

from zennas import commands

main = commands.command("zennas.run")

if __name__ == "__main__":
    main()
