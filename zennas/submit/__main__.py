"""The command `submit`: python -m zennas.submit --track T --model FILE.onnx, the same as: zennas submit ..."""

from zennas import commands

main = commands.command("zennas.submit")

if __name__ == "__main__":
    main()
