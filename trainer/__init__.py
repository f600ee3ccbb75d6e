"""The trainer: rollouts, rewards over HTTP, GRPO/DAPO updates, hard resets.

Knows policies and losses; of the service it imports only `verifier_service.schemas` and `verifier_service.client`.
"""
