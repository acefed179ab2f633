"""Words that explanations use, in plain sentences. A report that uses them carries them."""

from __future__ import annotations

__all__ = ["TERMS"]

TERMS = {
    "model": "A program that learned from items and now makes new ones.",
    "training items": "The items that the model learned from.",
    "held-out items": "Items of the same data that were kept away from training, to check on.",
    "sample": "One item that the model made.",
    "seed": "The number that all chance starts from: the same seed gives the same sample.",
    "noise": "Random numbers. A diffusion model starts from them and takes them away step by step.",
    "step": "One small piece of the way from noise to the sample.",
    "request": "What the model was asked for, such as a class or a caption.",
    "judge": "Another program that says of which class an item is. It learned from real items; its errors are known.",
    "loss": "How wrong the model is about an item. Low means that it knows such items well.",
    "check": "A test that the explanation itself must pass. If it fails, the explanation is shown as failed.",
    "badge": "What the tests of an answer came to: green, amber, red or not judged.",
    "model that forgot": "A copy of the model with what it learned in random order. A good answer is not true of it.",
    "interval": "The range in which the true value lies in 95 of 100 such measurements.",
    "baseline": "The cheapest answer anybody could give. An explanation must do better.",
    "ceiling": "The best score that anything could reach here.",
    "rank correlation": "1 if two lists are in the same order, 0 if their orders have nothing to do with each other.",
}
"""word -> meaning."""
