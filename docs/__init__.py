"""The site of the project: pages by hand in `pages`, and pages made from the code.

`python -m docs` builds it; `docs.generated.pages` is all that is made from the code.
"""
