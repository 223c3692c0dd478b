"""The kinds of group ``quantop.dev``: types, validation rules and CRD generation."""
