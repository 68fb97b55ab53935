"""What can be seen: folds from events to read models, the batch projector, replay and backtest."""
