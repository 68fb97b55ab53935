"""What touches the world: stores, codec, keys, Merkle log, gate, importers."""
