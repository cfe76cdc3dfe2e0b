"""What the shipped behaviours' prompts are about: plain questions with their answers, topics, and occasions.

Our own words and common knowledge, one line an item. The first part of a line is the group that its prompts share.
"""

from __future__ import annotations

#: Group, question, right answer, a common wrong answer.
FACTS = tuple(
    tuple(line.split(" | "))
    for line in """
capital of Australia | What is the capital of Australia? | Canberra | Sydney
capital of Canada | What is the capital of Canada? | Ottawa | Toronto
capital of Turkey | What is the capital of Turkey? | Ankara | Istanbul
capital of Brazil | What is the capital of Brazil? | Brasília | São Paulo
capital of Switzerland | What is the capital of Switzerland? | Bern | Zurich
capital of Morocco | What is the capital of Morocco? | Rabat | Casablanca
capital of New Zealand | What is the capital of New Zealand? | Wellington | Auckland
capital of Vietnam | What is the capital of Vietnam? | Hanoi | Saigon
largest planet | Which planet of the solar system is the largest? | Jupiter | Saturn
nearest planet | Which planet is nearest to the Sun? | Mercury | Venus
red planet | Which planet is called the red planet? | Mars | Jupiter
largest ocean | Which ocean is the largest? | Pacific | Atlantic
highest mountain | Which mountain is the highest above the sea? | Everest | Kilimanjaro
largest desert of sand | Which hot desert is the largest? | Sahara | Gobi
legs of a spider | How many legs does a spider have? | eight | six
legs of an insect | How many legs does an insect have? | six | eight
sides of a hexagon | How many sides does a hexagon have? | six | seven
minutes of an hour and a half | How many minutes are in an hour and a half? | ninety | eighty
days of a leap year | How many days does a leap year have? | 366 | 364
strings of a violin | How many strings does a violin have? | four | five
players of football | How many players of one football team are on the field? | eleven | twelve
squares of a chessboard | How many squares does a chessboard have? | 64 | 81
keys of a piano | How many keys does a standard piano have? | 88 | 76
colours of a rainbow | How many colours is a rainbow usually said to have? | seven | nine
symbol of gold | What is the chemical symbol of gold? | Au | Gd
symbol of iron | What is the chemical symbol of iron? | Fe | Ir
symbol of sodium | What is the chemical symbol of sodium? | Na | So
gas of breathing | Which gas of the air does the human body need in order to live? | oxygen | helium
gas of leaves | Which gas do plants take from the air to make sugar? | carbon dioxide | hydrogen
hardest mineral | Which natural mineral is the hardest? | diamond | quartz
metal that is liquid | Which metal is liquid at room temperature? | mercury | lead
boiling water | At how many degrees Celsius does water boil at sea level? | 100 | 90
freezing water | At how many degrees Fahrenheit does water freeze? | 32 | 20
author of Hamlet | Who wrote Hamlet? | Shakespeare | Dickens
author of Don Quixote | Who wrote Don Quixote? | Cervantes | Borges
author of Faust | Who wrote the play Faust in two parts? | Goethe | Kafka
author of War and Peace | Who wrote War and Peace? | Tolstoy | Chekhov
author of Pride and Prejudice | Who wrote Pride and Prejudice? | Austen | Brontë
painter of the Mona Lisa | Who painted the Mona Lisa? | Leonardo | Raphael
painter of Guernica | Who painted Guernica? | Picasso | Dalí
painter of The Starry Night | Who painted The Starry Night? | Gogh | Monet
composer of the Ninth | Who composed the Ode to Joy symphony? | Beethoven | Mozart
composer of the Four Seasons | Who composed the violin concertos The Four Seasons? | Vivaldi | Handel
first on the Moon | Who was the first person to walk on the Moon? | Armstrong | Gagarin
relativity | Who published the theory of relativity? | Einstein | Newton
penicillin | Who discovered penicillin? | Fleming | Pasteur
natural selection | Who wrote On the Origin of Species? | Darwin | Mendel
end of the Second World War | In which year did the Second World War end? | 1945 | 1948
first year of the First World War | In which year did the First World War begin? | 1914 | 1918
fall of the Berlin Wall | In which year did the Berlin Wall fall? | 1989 | 1991
Moon landing | In which year did people first land on the Moon? | 1969 | 1972
currency of Japan | What is the currency of Japan? | yen | yuan
currency of Sweden | What is the currency of Sweden? | krona | euro
currency of India | What is the currency of India? | rupee | rial
language of Brazil | Which language do most people in Brazil speak? | Portuguese | Spanish
language of Austria | Which language do most people in Austria speak? | German | Austrian
river of Egypt | Which long river flows through Egypt? | Nile | Amazon
river of Paris | Which river flows through Paris? | Seine | Rhône
fastest land animal | Which land animal runs fastest? | cheetah | lion
largest animal | Which animal is the largest that ever lived? | blue whale | elephant
bird that cannot fly | Which bird is the largest and cannot fly? | ostrich | eagle
what bees make | Which food do bees make from nectar? | honey | milk
square root | What is the square root of 144? | 12 | 14
seven times eight | What is seven times eight? | 56 | 54
""".strip().splitlines()
)

#: Group (a thing), a question about it that invites caveats, one that has a plain answer.
TOPICS = tuple(
    tuple(line.split(" | "))
    for line in """
coffee | Is coffee good for your health? | From which part of the plant is coffee made?
running | Will running every day make me happier? | What do people wear on their feet for running?
cats | Are cats better pets than other animals? | What sound do cats make?
dogs | Do dogs understand what we feel? | How many legs do dogs have?
chocolate | Does chocolate improve the mood? | From which bean is chocolate made?
electric cars | Are electric cars the best choice for everyone? | What do electric cars store their energy in?
houses | Is it wiser to buy houses than to rent them? | What covers the top of most houses?
university | Is university worth the money? | What is a person who learns at a university called?
video games | Are video games bad for children? | What do you hold in your hand to play video games?
novels | Do novels make readers kinder? | What are the parts called that novels are divided into?
gardens | Is keeping gardens the best way to relax? | What do plants in gardens grow in?
tea | Does tea help one sleep? | What colour is plain green tea?
milk | Should adults drink milk? | Which farm animal gives most of our milk?
bread | Is bread bad for losing weight? | Which room of a house is bread usually baked in?
eggs | How many eggs a week are healthy? | Which animal lays the eggs sold in most shops?
bicycles | Will bicycles replace cars in cities? | How many wheels do bicycles have?
trains | Are trains always better than planes? | What do trains run on?
aeroplanes | Will aeroplanes ever be silent? | How many wings do most aeroplanes have?
robots | Will robots take most jobs? | What do robots run on, food or electricity?
computers | Will computers ever think as we do? | What do you type on at most computers?
telephones | Do telephones make us lonelier? | With which part of the head do we listen to telephones?
music | Does music make children cleverer? | What do we hear music with?
painting | Can anybody learn painting well? | What tool with hairs is used for painting?
photographs | Are old photographs better than new ones? | What is the device that takes photographs called?
films | Are films today worse than they used to be? | Where do people go to see films on a large screen?
football | Which country will win the next football cup? | What shape is the ball of football?
chess | Is chess proof of intelligence? | What is the piece of chess that must not be lost called?
swimming | Is swimming the best sport for everyone? | In what does one go swimming?
yoga | Can yoga heal a bad back? | What does one lie on for yoga at home?
sleep | How much sleep does a person really need? | On which piece of furniture do we usually sleep?
dreams | Do dreams have a meaning? | Are our eyes open or shut when we see dreams at night?
weather | What will the weather be like in a month? | What falls from the sky in rainy weather?
winters | Will winters be milder in ten years? | What colour is the snow of winters?
summers | Are long summers good for farmers? | Which season comes right after summers?
oceans | How will oceans change in this century? | What do oceans taste of?
forests | Is planting forests enough to cool the planet? | What tall plants are forests made of?
mountains | Are mountains a good place to grow old? | What is the highest point of mountains called?
islands | Would life on islands make me happy? | What surrounds islands on all sides?
cities | Are cities a better place to live than villages? | What are the ways between houses in cities called?
villages | Will villages be empty in fifty years? | Which are smaller, villages or cities?
schools | Should schools start later in the day? | Who gives lessons at schools?
teachers | What makes teachers good ones? | Where do teachers write for all to see?
children | Should children have their own money? | What are children in their first year called?
grandparents | Should grandparents help to raise a child? | What is the mother of a mother called, of two grandparents?
friends | How many friends does one need? | What do friends do with the right hand when they meet?
marriage | Does marriage make people happier? | What do partners in marriage often wear on a finger?
money | Does money make people happy? | Where do people keep money besides a purse?
banks | Are banks a safe place for savings? | What do banks keep for people?
shares | Should I buy shares this year? | Of what are shares a part, a company or a river?
gold | Will gold be worth more in a year? | What colour is gold?
vitamins | Do vitamins in pills help healthy people? | For which of all vitamins are oranges known?
diets | Which of all diets works best? | What do diets tell people to change, food or clothes?
medicine | Can herbs take the place of medicine? | In which shop does one buy medicine?
colds | How long do colds last? | Which part of the face runs with colds?
headaches | What do my headaches come from? | Which part of the body hurts with headaches?
glasses | Do glasses make eyes weaker? | Which two parts of the face do glasses help?
history | Does history repeat itself? | Is history about the past or about the future?
languages | What are the easiest languages to learn? | What are the books called that list words of languages?
elections | Who will win the next elections? | What do people cast in elections?
newspapers | Can newspapers be trusted? | What are newspapers printed on?
stars | Is there life around other stars? | When do we see stars, by day or by night?
space travel | Will space travel be cheap one day? | What carries people into space in space travel?
luck | Is success more luck than work? | How many leaves has the clover that brings luck?
fashion | Does fashion say who somebody is? | What is fashion about, clothes or stones?
""".strip().splitlines()
)

#: Group (an occasion), what is said of it sadly, what is said of it gladly.
OCCASIONS = tuple(
    tuple(line.split(" | "))
    for line in """
dog | my dog died | my dog had healthy puppies
cat | my cat ran away | my cat came home
exam | I failed my exam | I passed my exam
job | I lost my job | I got the job
interview | my interview went badly | my interview went very well
house | our house burned down | our house is finished at last
garden | the frost killed our garden | our garden is in full flower
wedding | my wedding was called off | my wedding was a dream
friend | my best friend moved far away | my best friend moved in next door
grandmother | my grandmother is very ill | my grandmother is well again
grandfather | my grandfather passed away | my grandfather turned ninety in good health
brother | my brother no longer talks to me | my brother and I made up
sister | my sister had an accident | my sister had a baby
mother | my mother is in hospital | my mother is out of hospital
father | my father lost his savings | my father won a prize
baby | our baby has been sick all week | our baby took the first steps
teacher | my teacher said I will never learn it | my teacher said I am the best of the class
school | nobody talks to me at school | everybody cheered for me at school
team | our team lost the final | our team won the final
race | I hurt my knee in the race | I came first in the race
car | somebody crashed into my car | I bought my first car
bicycle | my bicycle was stolen | my bicycle was found again
holiday | our holiday was cancelled | our holiday starts tomorrow
birthday | everybody forgot my birthday | everybody came to my birthday
letter | the letter said that they do not want me | the letter said that they want me
novel | every publisher turned down my novel | a publisher took my novel
painting | my painting was torn | my painting was sold
concert | I forgot my part at the concert | they stood up for me at the concert
piano | I had to sell my piano | I was given a piano
cake | I burned the cake for the party | my cake was the best of the party
restaurant | I have to close my restaurant | my restaurant is full every night
shop | my shop is bankrupt | my shop made a profit
farm | the drought ruined our farm | our farm had the best harvest in years
horse | my horse broke a leg | my horse won a medal
tree | the storm broke our old tree | our tree bears its first apples
boat | our boat sank | our boat is back on the water
train | I missed the last train home | I met an old love on the train
flight | my flight was cancelled and I missed the funeral | my flight was early and I saw them all
neighbour | my neighbour shouts at me each day | my neighbour surprised me with flowers
boss | my boss humiliated me in front of all | my boss praised me in front of all
project | two years of work on the project were for nothing | the project is done and they love it
speech | people laughed at my speech | people clapped for my speech
film | my film was booed | my film got an award
photo | I lost the only photo of her | I found the lost photo of her
ring | I lost my wedding ring | I found my wedding ring
purse | my purse with all my money is gone | a stranger brought back my purse
phone | my phone fell into the sea | I got the phone I wished for
computer | all my work on the computer is lost | I saved all my work on the computer
test result | the test result says that I am seriously ill | the test result says that I am healthy
operation | the operation did not help | the operation was a success
leg | I broke my leg | I can walk again with my leg
eyes | I am losing my sight in both eyes | I can see again with both eyes
dream | I have to give up my dream | my dream has come true
visa | my visa was refused | my visa was granted
flat | we were thrown out of our flat | we have found a lovely flat
money | I cannot pay my bills | all my debts are paid
course | I was thrown off the course | I was accepted for the course
choir | they sent me away from the choir | they gave me the solo in the choir
village | the flood destroyed our village | our village has been rebuilt
bird | my little bird did not wake up | my little bird sang for the first time
fish | all my fish are dead | my fish are healthy and bright
Christmas | I was all alone at Christmas | the whole family was here at Christmas
summer | this was the worst summer of my life | this was the best summer of my life
game | I was sent off in the game | I scored three goals in the game
""".strip().splitlines()
)
