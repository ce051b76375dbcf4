"""Methods that control every step, one after another."""
