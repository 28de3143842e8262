"""What tasks about identities share: class centres, margin losses over them, distillation, who is in which group."""
