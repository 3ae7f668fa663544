"""Options: frozen, keyword-only dataclasses, of which the class chooses a mechanism, in one tree.

tree.py         walks a tree, finds its problems and warnings, checks it
annotations.py  which classes and values the annotation of a field allows
json.py         a tree as JSON, and back
assignments.py  --set path.to.field=value
difference.py   fields in which two trees differ
field_marks.py  fields that change how something is computed or trained, and not its result
words.py        words of error messages
"""

from model.exports import exports

__all__, __getattr__ = exports(
    __name__,
    annotations="alternatives fields_of has_type item_annotation option_classes",
    assignments="override parse_value",
    difference="differences",
    field_marks="exclude_paths marked_fields",
    json="from_json option_from_json to_json",
    tree="check find_problems find_warnings walk",
    words="describe format_value nearest",
)
