"""A standing attack on the real binary: `make attack`; a short one is tests/real/test_attack_real.py."""
