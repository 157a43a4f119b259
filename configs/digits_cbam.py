from train.config import Config
config=Config(total_epochs=60)
