"""`python -m verifier_service` is the `verifier` command."""

from verifier_service.cli import main

if __name__ == "__main__":
    main()
