from fededge.cli import main

main()
