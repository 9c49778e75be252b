"""Tests of bilevel_gym."""
