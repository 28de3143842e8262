"""The command `score`: python -m zennas.score FILE, the same as: zennas score FILE."""

from zennas import commands

main = commands.command(
    "zennas.score",
    json="A JSON list on standard output, in the order given.",
    csv="A CSV table on standard output.",
)

if __name__ == "__main__":
    main()
