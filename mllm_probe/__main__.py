"""`python -m mllm_probe`."""

from mllm_probe.cli import main

if __name__ == "__main__":
    main()
