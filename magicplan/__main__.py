from magicplan.cli import main

main()
