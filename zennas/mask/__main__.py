"""The command `mask`: python -m zennas.mask --data D --ratio 0.15 --out DIR, the same as: zennas mask ..."""

from zennas import commands

main = commands.command("zennas.mask")

if __name__ == "__main__":
    main()
