"""Models on their way out of the house and in again: files, the card, the Hugging Face Hub.

It knows networks and plain facts only, so that the engine can read what is shared.
"""
