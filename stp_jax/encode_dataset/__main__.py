from stp_jax.encode_dataset.command import main

if __name__ == "__main__":
    main()
