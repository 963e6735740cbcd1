"""Codecs, which turn values into bytes and back; trio is not needed for them."""
