"""Values as bytes: codecs, the schemas of types, and the check of plain values; trio is not needed for it."""
