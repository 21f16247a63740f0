"""The shared store on etcd, by the JSON gateway of its members (docs/adr/0034)."""
