# A serial line does not say how large the terminal at its other end is, nor that it was resized. So bash asks before
# each prompt, unless somebody types ahead: it sends the cursor to the far corner and asks where it is (ECMA-48: CUP,
# DSR), which a terminal answers with ESC [ ROWS ; COLUMNS R.
case ${BASH_VERSION:+$(tty)} in
/dev/ttyS* | /dev/ttyAMA* | /dev/hvc*)
	serial_size() {
		local rows columns
		read -rt 0 && return
		printf '\0337\033[999;999H\033[6n\0338'
		IFS='[;' read -rsd R -t 1 _ rows columns
		case $rows$columns in
		'' | *[!0-9]*) ;;
		*) stty rows "$rows" columns "$columns" ;;
		esac
	}
	PROMPT_COMMAND=serial_size
	;;
esac
