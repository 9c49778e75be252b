"""Bilevel problems as mathematics: models, objectives, responses. No environment is needed."""
