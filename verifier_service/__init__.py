"""The reward service: tasks and completions in, verdicts out.

Knows tasks, completions and verdicts; knows nothing of torch, advantages or policies.
`verifier_service.schemas` and `verifier_service.client` import without FastAPI, Redis or SymPy.
"""
